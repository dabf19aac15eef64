"""What makes a task of fairseq decode with another target table than that of the training."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Optional

from fairseq.data import BaseWrapperDataset, Dictionary
from fairseq.dataclass import FairseqDataclass

from fairseq_contout.models.exchange import exchange_table, match_symbols
from fairseq_contout.table_file import dictionary_beside, load_table


@dataclass
class NewTableConfig(FairseqDataclass):
    """Options of a task that decodes with another table."""

    new_table: Optional[str] = field(
        default=None,
        metadata={
            "help": "decode with this target table, whose words may be more than or others than "
            "those of the training: preprocess/extend_table.py or build_table.py made it"
        },
    )
    new_dictionary: Optional[str] = field(
        default=None,
        metadata={
            "help": "dictionary of --new-table; by default the file of that name with .dict.txt in "
            "place of .safetensors"
        },
    )
    new_words_as_unk: bool = field(
        default=False,
        metadata={
            "help": "a decoder with embeddings of its own reads words that it does not have as "
            "<unk>; without it they are an error"
        },
    )


def load_dictionary(path) -> Dictionary:
    """Load the dictionary of a table.

    Raises:
        ValueError: no such file, or not lines of ``symbol count``.
    """
    if not Path(path).is_file():
        raise ValueError(
            f"--new-dictionary {path}: no such file, but --new-table needs the dictionary that its "
            "rows belong to; give it"
        )
    try:
        return Dictionary.load(str(path))
    except Exception as error:  # fairseq raises bare ones
        said = " ".join(str(error).split())
        raise ValueError(
            f"--new-dictionary {path}: must have lines 'symbol count': {said}; give the dictionary "
            "that --new-table was made for"
        ) from error


class RenumberedDataset(BaseWrapperDataset):
    """Sentences of tokens in the numbers of another dictionary.

    Args:
        dataset: sentences, long ``(T,)`` each.
        index: the new number of each symbol, ``(V,)``.
    """

    def __init__(self, dataset, index):
        super().__init__(dataset)
        self.index = index

    def __getitem__(self, item):
        return self.index[self.dataset[item].long()]


class WithNewTable:
    """Mixin for a translation task whose configuration has :class:`NewTableConfig`'s options.

    ``target_dictionary`` is that of the new table, and so all that fairseq does with words follows:
    hypotheses, references, ``--replace-unk``, scores. The data folder stays that of the training.

    Raises:
        ValueError: an option without ``--new-table``, or no dictionary.
    """

    def __init__(self, cfg, src_dict, tgt_dict):
        super().__init__(cfg, src_dict, tgt_dict)
        self.trained_dictionary = tgt_dict
        if cfg.new_table:
            self.tgt_dict = load_dictionary(cfg.new_dictionary or dictionary_beside(cfg.new_table))
            return
        for option in ("new_dictionary", "new_words_as_unk"):
            if getattr(cfg, option):
                raise ValueError(
                    f"--{option.replace('_', '-')} belongs to --new-table, but that is not given; "
                    "give --new-table FILE, or leave it out"
                )

    def build_model(self, cfg, from_checkpoint=False):
        """Build the model as it was trained; its table is exchanged when its weights are loaded.

        Raises:
            ValueError: ``--new-table`` in training, or a table that does not fit.
        """
        if not self.cfg.new_table:
            return super().build_model(cfg, from_checkpoint)
        if not from_checkpoint:
            raise ValueError(
                f"--new-table {self.cfg.new_table} is for decoding with a trained model; a "
                "training takes its table as --target-table"
            )
        new, self.tgt_dict = self.tgt_dict, self.trained_dictionary
        try:
            model = super().build_model(cfg, from_checkpoint)
        finally:
            self.tgt_dict = new
        model.register_load_state_dict_post_hook(self._exchange)
        return model

    def _exchange(self, model, _):
        exchange_table(
            model,
            load_table(self.cfg.new_table, self.tgt_dict),
            self.trained_dictionary,
            self.tgt_dict,
            new_as_unk=self.cfg.new_words_as_unk,
        )

    def load_dataset(self, split, epoch=1, combine=False, **kwargs):
        """Load a split; targets that were binarised for the training are renumbered."""
        super().load_dataset(split, epoch, combine, **kwargs)
        data = self.datasets[split]
        # raw text was just read with the new dictionary
        if self.cfg.new_table and data.tgt is not None and self.cfg.dataset_impl != "raw":
            symbols = self.trained_dictionary.symbols
            data.tgt = RenumberedDataset(data.tgt, match_symbols(symbols, self.tgt_dict)[0])
