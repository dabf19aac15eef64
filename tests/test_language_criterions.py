"""Every criterion trains every kind of language model, with a frozen and a learned table."""

import re

import language_data
import pytest
import torch
from cli import call
from factory import CRITERIONS
from language_data import DIM, SIZES, load

pytestmark = pytest.mark.slow

UPDATES = 24  # eight epochs
#: other names than those of the criterions, in factory.CRITERIONS
NAMES = {
    "vmf-authors": "vmf",
    "margin-batch": "margin",
    "syn_margin-difference": "syn_margin",
}
TASKS = dict.fromkeys(SIZES, "language_modeling") | {"continuous_masked_lm": "masked_lm"}
#: with a learned table, criterions without negatives need a guard
GUARDED = {"cosine", "l2", "vmf", "vmf-authors", "power_spherical"}


def options_of(criterion):
    given = CRITERIONS[criterion].items()
    return [f"--{name.replace('_', '-')}={value}" for name, value in given]


def train(english, folder, arch, criterion, *table):
    """Train; return the losses of the first and the last epoch, and the rows early and late."""
    output = call(
        "train", english, "--task", TASKS[arch], "--arch", arch, *SIZES[arch].split(),
        "--criterion", NAMES.get(criterion, criterion), *options_of(criterion),
        "--target-table", *table, "--optimizer", "adam", "--lr", "0.004", "--dropout", "0",
        "--batch-size", "100", "--tokens-per-sample", "40", "--sample-break-mode", "eos",
        "--max-update", UPDATES, "--save-interval-updates", "2",
        "--fixed-validation-seed", "3", "--save-dir", folder, "--no-epoch-checkpoints",
    )  # fmt: skip
    losses = re.findall(r"epoch \d+ \| loss (\S+)", output)
    rows = [output_of(load(path, english)[0]).table.rows() for path in checkpoints(folder)]
    return float(losses[0]), float(losses[-1]), rows


def checkpoints(folder):
    """Return the first and the last of a run."""
    numbered = folder.glob("checkpoint_*_*.pt")
    first = min(numbered, key=lambda path: int(path.stem.split("_")[-1]))
    return first, folder / "checkpoint_last.pt"


@pytest.mark.parametrize("arch", sorted(SIZES))
@pytest.mark.parametrize("criterion", sorted(CRITERIONS))
def test_frozen_table(english, tmp_path, arch, criterion):
    table = english.parent / "table.safetensors"
    before, after, rows = train(english, tmp_path, arch, criterion, table)
    assert after < before
    assert torch.equal(*rows)


@pytest.mark.parametrize("arch", sorted(SIZES))
@pytest.mark.parametrize("criterion", sorted(CRITERIONS))
def test_learned_table(english, tmp_path, arch, criterion):
    table = ["learned"]
    if arch != "continuous_masked_lm":  # where it is tied unless told
        table.append("--share-decoder-input-output-embed")
    if criterion == "hybrid":  # the neighbours of a word are those of a table that does not move
        table += ["--neighbour-table", english.parent / "table.safetensors"]
    if criterion in GUARDED:
        table += ["--dispersion-weight", "1"]
    before, after, rows = train(english, tmp_path, arch, criterion, *table)
    assert after < before
    assert rows[0].shape[1] == DIM and not torch.allclose(*rows, atol=1e-3)


def output_of(model):
    decoder = getattr(model, "decoder", None) or model.encoder
    return decoder.continuous_output


def test_all_criterions_are_here():
    assert {NAMES.get(name, name) for name in CRITERIONS} == {
        "cosine", "l2", "vmf", "margin", "syn_margin", "power_spherical", "contrastive", "hybrid"
    }  # fmt: skip
    assert set(SIZES) == {arch for arch, _ in language_data.MODELS.values()}
