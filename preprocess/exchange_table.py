#!/usr/bin/env python3
"""Write a checkpoint whose target table is another: to decode with, or to train on from.

What the model learned stays: its layers, the calibrated scale, the rows of the special symbols.
The words of the new table's dictionary take the place of the training's. Train on with
fairseq-train --finetune-from-model OUTPUT --target-table NEW-TABLE, on data of that dictionary.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # a checkout needs no installation

import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402, N812

from preprocess.common import (  # noqa: E402
    Parser,
    atomic_path,
    check_output,
    describe,
    run,
    without_notes,
)

#: What belongs to a learned table, or to embeddings that are shared with others: now neither is.
#: And the parts that a training left as they are, which may be no parts any more.
_FORGOTTEN = (
    "table_init", "table_dim", "table_ema", "table_lr_scale", "stop_gradient_targets",
    "table_storage", "share_all_embeddings", "share_decoder_input_output_embed",
    "freeze", "fix_norm",
)  # fmt: skip
_READER = "decoder.embed_tokens."
_SIDES = "source", "target"


def parser() -> Parser:
    parser = Parser(__doc__)
    parser.add_argument("--checkpoint", required=True, metavar="FILE.pt", help="of fairseq-train")
    parser.add_argument(
        "--data", required=True, metavar="FOLDER", help="of its training, for the dictionaries"
    )
    parser.add_argument(
        "--new-table", required=True, metavar="FILE.safetensors", help="of the space of its table"
    )
    parser.add_argument(
        "--new-dictionary",
        metavar="FILE.txt",
        help="of --new-table; by default the file of that name with .dict.txt in place of "
        ".safetensors",
    )
    parser.add_argument(
        "--new-words-as-unk",
        action="store_true",
        help="a decoder with embeddings of its own begins to read words that it does not have as "
        "<unk>; without it they are an error",
    )
    parser.add_argument("--output", required=True, metavar="FILE.pt", help="the new checkpoint")
    return parser


def read_checkpoint(path) -> dict:
    """Return what fairseq-train wrote.

    Raises:
        ValueError: no such file, or no checkpoint of an encoder-decoder model of fairseq.
    """
    if not Path(path).is_file():
        raise ValueError(f"--checkpoint {path}: no such file; train with fairseq-train")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        _ = checkpoint["model"], checkpoint["cfg"]["model"], checkpoint["cfg"]["task"]
    except Exception as error:  # torch.load raises whatever the file makes it raise
        raise ValueError(
            f"--checkpoint {path}: must be a checkpoint of fairseq, but {describe(error)}; give a "
            "checkpoint_*.pt of fairseq-train"
        ) from error
    return checkpoint


def load_exchanged(args, checkpoint):
    """Return the model of a checkpoint as ``fairseq-generate --new-table`` has it, and the task.

    Raises:
        ValueError: a table or dictionary that does not fit; no translation model.
    """
    from fairseq import checkpoint_utils, tasks
    from fairseq.data.data_utils import infer_language_pair
    from omegaconf import OmegaConf

    kept = checkpoint["cfg"]["task"]
    if kept.get("_name") not in ("translation", "continuous_translation"):
        raise ValueError(
            f"--checkpoint {args.checkpoint}: must be of a translation model, but its task is "
            f"{kept.get('_name')}; only those take another table"
        )
    # what fairseq took from the names of the files is in no checkpoint
    found = infer_language_pair(args.data) if Path(args.data).is_dir() else (None, None)
    languages = [kept.get(f"{side}_lang") or name for side, name in zip(_SIDES, found)]
    for language in languages:
        if not (Path(args.data) / f"dict.{language}.txt").is_file():
            raise ValueError(
                f"--data {args.data}: must be the folder of the training, but has no "
                f"dict.{language or 'LANG'}.txt; give the one with which the checkpoint was trained"
            )
    given = {name: getattr(args, name) for name in ("data", "new_table", "new_dictionary")}
    given.update(zip((f"{side}_lang" for side in _SIDES), languages))
    given.update(_name="continuous_translation", new_words_as_unk=args.new_words_as_unk)
    task = tasks.setup_task(OmegaConf.create(given))
    models, _ = checkpoint_utils.load_model_ensemble([args.checkpoint], task=task)
    return models[0], task


def _as_read(embedding, options):
    # what those who share it with the table make of the parameter
    if getattr(options, "fix_norm", None):
        return F.normalize(embedding, dim=-1)
    return embedding * (getattr(options, "table_lr_scale", None) or 1.0)


def model_state(model, options, words: int) -> dict:
    """Return a model's tensors under the names of a model that is trained with the new table."""
    state, reader = model.state_dict(), model.decoder.embed_tokens
    if f"{_READER}projection.weight" in state:
        return state
    tied = any(getattr(options, name, False) for name in _FORGOTTEN if name.startswith("share_"))
    state = {name: value for name, value in state.items() if not name.startswith(_READER)}
    with torch.no_grad():
        embedding = reader(torch.arange(words))
    if tied:
        embedding = _as_read(embedding, options)
        if getattr(options, "share_all_embeddings", False):
            name = "encoder.embed_tokens.weight"
            state[name] = _as_read(state[name], options)
    state[f"{_READER}weight"] = embedding
    return state


def exchange(args):
    with without_notes():  # with the plugin, torch loads what fairseq writes
        from fairseq_contout.table_file import dictionary_beside
    args.new_dictionary = args.new_dictionary or str(dictionary_beside(args.new_table))
    check_output(args.output, inputs=(args.checkpoint, args.new_table, args.new_dictionary))
    checkpoint = read_checkpoint(args.checkpoint)
    with without_notes():
        model, task = load_exchanged(args, checkpoint)
    dictionary, options = task.target_dictionary, checkpoint["cfg"]["model"]
    state = model_state(model, options, len(dictionary))
    if f"{_READER}weight" in state:
        options.decoder_input = "separate"
    for name in _FORGOTTEN:
        if getattr(options, name, None):
            setattr(options, name, None)
    options.target_table = args.new_table
    options.built_table = [args.new_table, model.decoder.continuous_output.table.dim]
    options.built_storage = "checkpoint"
    checkpoint["model"] = state
    # those of other parameters
    checkpoint["last_optimizer_state"] = None
    for name in ("ema", "ema_fp32_params"):
        checkpoint["extra_state"].pop(name, None)
    for name, value in (checkpoint.get("criterion") or {}).items():
        if name.endswith("observed"):  # how often each word was a target
            checkpoint["criterion"][name] = value.new_zeros(len(dictionary))
    with atomic_path(args.output) as temporary:
        torch.save(checkpoint, temporary)
    print(
        f"{args.output}: {args.checkpoint} with the {len(dictionary)} rows of {args.new_table}, "
        f"--decoder-input {getattr(options, 'decoder_input', None) or 'separate'}"
    )


def main(argv=None) -> int:
    return run(exchange, parser().parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
