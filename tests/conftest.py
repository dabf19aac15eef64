"""Fixtures that several tests share, each made once a session: corpus, table, trained models."""

import os
import shutil
import tempfile
from pathlib import Path
from types import SimpleNamespace

os.environ.setdefault("OMP_NUM_THREADS", "1")  # the tensors are tiny: threads only get in the way

import cli  # noqa: E402
import language_data  # noqa: E402
import pytest  # noqa: E402
import torch  # noqa: E402

torch.set_num_threads(1)

#: Options under which every criterion learns the copy task within seconds. The second moment of
#: Adam must forget fast: the gradients of ``l2`` and ``vmf`` shrink a hundredfold with the length
#: of the predictions, and the default of 0.999 would keep the steps tiny for a thousand updates.
QUICK = (
    "--task translation --arch continuous_transformer_tiny --encoder-layers 1 --decoder-layers 1 "
    "--dropout 0 --optimizer adam --adam-betas (0.9,0.9) --lr 0.01 --lr-scheduler "
    "polynomial_decay --warmup-updates 50 --batch-size 64 --validate-interval 1000 "
    "--save-interval 1000 --no-epoch-checkpoints"
)
UPDATES = 250
#: ``l2`` and the paper's ``vmf`` first predict the mean of all rows, and leave it slowly
SLOWLY = "--lr 0.007 --warmup-updates 120 --max-update 350 --total-num-update 350"
#: name → options of a trained model
MODELS = {
    "cosine": "--criterion cosine",
    "l2": f"--criterion l2 {SLOWLY}",
    "vmf": f"--criterion vmf {SLOWLY}",
    "vmf-authors": "--criterion vmf --vmf-form authors",
    "margin": "--criterion margin",
    "margin-batch": "--criterion margin --negatives batch",
    "syn_margin": "--criterion syn_margin",
    "syn_margin-difference": "--criterion syn_margin --synthetic-negative difference",
    "power_spherical": "--criterion power_spherical",
    "contrastive": "--criterion contrastive",
    "contrastive-learned": "--criterion contrastive --target-table learned "
    "--share-decoder-input-output-embed",
    "hybrid": "--criterion hybrid --hybrid-weight 1 --neighbour-smoothing 0.05",
    "table-input": "--criterion cosine --decoder-input table",
    "lstm": "--criterion cosine --arch continuous_lstm --encoder-embed-dim 64 --decoder-embed-dim "
    "64 --encoder-hidden-size 64 --decoder-hidden-size 64 --decoder-out-embed-dim 64",
}


@pytest.fixture(scope="session")
def once(tmp_path_factory):
    """Return a function that makes a folder once, also when several processes run the tests.

    ``once(name, make)`` calls ``make(folder)`` on an empty folder and gives it its name when it is
    complete. Two processes may both make it; the first to finish wins.
    """
    root = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent

    def make_once(name, make):
        final = root / name
        if not final.exists():
            folder = Path(tempfile.mkdtemp(dir=root, prefix=f"{name}."))
            make(folder)
            try:
                folder.rename(final)
            except OSError:
                if not final.exists():
                    raise
                shutil.rmtree(folder)
        return final

    return make_once


@pytest.fixture(scope="session")
def corpus(once):
    """A copy task: ``raw`` text in subwords, ``data`` for fairseq, ``table``, BPE ``codes``."""

    def make(folder):
        (folder / "raw").mkdir()
        cli.write_corpus(folder / "raw", {"train": 2000, "valid": 60, "test": 60})
        prefixes = [(f"--{p}pref", folder / "raw" / p) for p in ("train", "valid", "test")]
        arguments = [argument for pair in prefixes for argument in pair]
        cli.call("preprocess", "-s", "src", "-t", "tgt", *arguments, "--destdir", folder / "data")
        cli.write_table(folder / "table.safetensors", folder / "data" / "dict.tgt.txt")
        (folder / "codes").write_text(cli.BPE_CODES)

    folder = once("corpus", make)
    return SimpleNamespace(
        raw=folder / "raw",
        data=folder / "data",
        table=folder / "table.safetensors",
        codes=folder / "codes",
    )


@pytest.fixture(scope="session")
def train(corpus):
    """Return ``train(folder, *options, updates=…, total=…)``: trains, returns what is printed."""

    def run(folder, *options, updates=UPDATES, total=None):
        return cli.call(
            "train", corpus.data, *QUICK.split(), "--target-table", corpus.table,
            "--save-dir", folder, "--max-update", updates,
            "--total-num-update", total or updates, *options,
        )  # fmt: skip

    return run


@pytest.fixture(scope="session")
def trained(once, train):
    """Return ``trained(name)``: the checkpoint of one of MODELS, trained when first asked for."""

    def checkpoint(name):
        folder = once(f"model-{name}", lambda folder: train(folder, *MODELS[name].split()))
        return folder / "checkpoint_last.pt"

    return checkpoint


@pytest.fixture(scope="session")
def english(once):
    """Some hundred English sentences for language models: the folder of fairseq's data.

    The text, and a ``table.safetensors``, are in the folder above.
    """
    return once("english", language_data.make_data) / "data"


@pytest.fixture(scope="session")
def language_model(once, english):
    """Return ``language_model(name, *options)``: the checkpoint of one of language_data.MODELS."""

    def checkpoint(name, *options):
        folder = once(
            "-".join(["language", name, *options]),
            lambda folder: language_data.train(english, folder, name, *options),
        )
        return folder / "checkpoint_last.pt"

    return checkpoint


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """Return an untrained model that is large enough for every search, one for each file."""
    from searching import TinyModel

    return TinyModel(tmp_path_factory.mktemp("tiny"))
