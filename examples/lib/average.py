"""Average the weights of checkpoints, such as those of the last epochs.

usage: average.py --output FILE CHECKPOINT [CHECKPOINT ...]

A target table's calibration is averaged with the weights: the scale of the mean model is the one
most likely over the validation scores of all the checkpoints.
"""

import argparse
import sys
from pathlib import Path

import torch
from fairseq import checkpoint_utils
from omegaconf import OmegaConf

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
# the package also lets torch >= 2.6 load fairseq's checkpoints
from fairseq_contout.files import atomic_file  # noqa: E402


def average(paths: list) -> dict:
    """Return the first checkpoint with the mean of all their weights, without optimizer states.

    Args:
        paths: checkpoints of one training, at least one.

    Raises:
        ValueError: checkpoints of different models.
    """
    first, sums = None, {}
    for path in paths:
        state = checkpoint_utils.load_checkpoint_to_cpu(str(path))
        weights = state["model"]
        if first is None:
            first = state
            # in float64 the order of the files cannot be seen in the result
            sums = {name: value.to(torch.float64, copy=True) for name, value in weights.items()}
            continue
        shapes = {name: value.shape for name, value in weights.items()}
        if shapes != {name: value.shape for name, value in sums.items()}:
            raise ValueError(
                f"checkpoints to average must be of one model, but {path} has other parameters "
                f"than {paths[0]}; give checkpoints of one training"
            )
        for name, value in weights.items():
            sums[name] += value
    first["model"] = {
        name: (total / len(paths)).to(first["model"][name].dtype) for name, total in sums.items()
    }
    first["last_optimizer_state"] = None
    if first.get("cfg") is not None:
        # fairseq makes an object of it when it loads, and plain containers when it saves
        first["cfg"] = OmegaConf.to_container(first["cfg"], resolve=True, enum_to_str=True)
    return first


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, required=True, help="checkpoint to write")
    parser.add_argument("checkpoints", nargs="+", type=Path, help="checkpoints of one training")
    args = parser.parse_args(argv)
    for path in args.checkpoints:
        if not path.is_file():
            parser.error(f"{path} is no file; train on, so that it is written, or average fewer")
    try:
        state = average(args.checkpoints)
    except ValueError as error:
        parser.error(str(error))
    with atomic_file(args.output) as file:
        torch.save(state, file)


if __name__ == "__main__":
    main()
