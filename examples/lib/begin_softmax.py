"""Write a model with a softmax whose embeddings begin with the rows of a target table.

fairseq's language models read no file of vectors; --finetune-from-model reads what this writes.
What follows -- are the data and options of fairseq-train, as they are given to it.
"""

import argparse
import logging
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch  # noqa: E402
from fairseq import checkpoint_utils, options, tasks, utils  # noqa: E402
from fairseq.dataclass.utils import convert_namespace_to_omegaconf  # noqa: E402
from fairseq.trainer import Trainer  # noqa: E402
from score import run_script  # noqa: E402

from fairseq_contout.table_file import load_table  # noqa: E402


def parse():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--table", type=Path, required=True, help="file made by build_table.py")
    parser.add_argument("--output", type=Path, required=True, help="checkpoint to be written")
    parser.add_argument("train", nargs="+", metavar="DATA OPTION", help="of fairseq-train")
    return parser.parse_args()


def tied_rows(model) -> torch.nn.Parameter:
    """Return the rows that a language model reads, and scores words with.

    Raises:
        ValueError: they are not the same.
    """
    rows = model.decoder.embed_tokens.weight
    output = getattr(model.decoder, "output_projection", None)
    if getattr(output, "weight", None) is not rows:
        raise ValueError(
            "a softmax begins with rows of a table where it is tied to the input; give "
            "--share-decoder-input-output-embed, and no --adaptive-softmax-cutoff"
        )
    return rows


def main():
    args = parse()
    parser = options.get_training_parser()
    config = convert_namespace_to_omegaconf(options.parse_args_and_arch(parser, args.train))
    logging.disable(logging.INFO)  # of the training, which tells it all again
    utils.set_torch_seed(config.common.seed)
    task = tasks.setup_task(config.task)
    model, criterion = task.build_model(config.model), task.build_criterion(config.criterion)
    rows, table = tied_rows(model), load_table(args.table, task.target_dictionary)
    if rows.shape != table.shape:
        raise ValueError(
            f"{args.table}: rows must be as the embeddings {tuple(rows.shape)}, but are "
            f"{tuple(table.shape)}; give a table of that dimension"
        )
    with torch.no_grad():
        rows.copy_(table)
        rows[task.target_dictionary.pad()] = 0  # as where embeddings begin at random
    trainer = Trainer(config, task, model, criterion)
    trainer.consolidate_optimizer()
    state = trainer.state_dict()
    # nothing of when it was written, nor of where the training ends: the same call writes the same
    state["cfg"], state["extra_state"] = None, {}
    checkpoint_utils.torch_persistent_save(state, str(args.output))


if __name__ == "__main__":
    run_script(main)
