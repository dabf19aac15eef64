"""The commands of docs/language_models.md run as they stand there, on a little text."""

import re
import sys

import pytest
from test_readme import ROOT, folder, run  # noqa: F401  (a fixture)

pytestmark = pytest.mark.slow

DOCUMENT = (ROOT / "docs" / "language_models.md").read_text(encoding="utf-8")
#: What is added to each training: nothing else of the commands is changed. `…` stands for options
#: that are shown above it.
SMALL = "--max-update 3 --max-tokens 1000 --cpu --num-workers 0"
LANGUAGE_MODEL = (
    "--arch continuous_transformer_lm --decoder-embed-dim 64 --decoder-attention-heads 2 "
    "--decoder-ffn-embed-dim 64 --decoder-layers 1 --decoder-normalize-before "
    "--criterion contrastive --target-table learned --share-decoder-input-output-embed "
    "--optimizer adam --tokens-per-sample 256 --save-dir checkpoints-pretrained"
)
TRANSLATION = (
    "-s de -t en --decoder-embed-dim 64 --decoder-attention-heads 2 --decoder-ffn-embed-dim 64 "
    "--encoder-embed-dim 64 --encoder-attention-heads 2 --encoder-ffn-embed-dim 64 "
    "--encoder-layers 1 --decoder-layers 1 --criterion contrastive --target-table learned "
    "--share-decoder-input-output-embed --optimizer adam --save-dir checkpoints-translation"
)


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", DOCUMENT, re.DOTALL)


def commands(script):
    """The block, in a shell where fairseq-train trains for three updates."""
    return f'fairseq-train() {{ command fairseq-train "$@" {SMALL}; }}\n{script}'


@pytest.fixture(scope="module")
def home(folder, tmp_path_factory):  # noqa: F811
    """A user's folder: train.txt, valid.txt and test.txt, as the first command wants them."""
    home = tmp_path_factory.mktemp("reader")
    for name in ("preprocess", "fairseq_contout"):
        (home / name).symlink_to(ROOT / name)
    for split in ("train", "valid", "test"):
        text = (folder / f"{split}.bpe.en").read_text()
        # and the words of the document's own sentences; fairseq wants 8 blocks of 256 tokens
        own = "the king the river bank lends money\n" * 5
        (home / f"{split}.txt").write_text((text + own) * (1 if split == "train" else 12))
    return home


def test_commands(home, folder):  # noqa: F811
    training, text, masked, directions, pretrained = blocks("bash")
    assert re.search(r"Perplexity: [\d.]+", run(commands(f"{{ {training} }} 2>&1"), home))
    assert "accuracy" in run(commands(f"{{ {masked} }} 2>&1"), home).rpartition("| valid on")[2]
    run(commands(directions), home)
    assert (home / "checkpoints-masked" / "checkpoint_best.pt").exists()
    assert re.search(r"H-0\t\S+\tthe king ", run(text, home))
    (python,) = blocks("python")
    (home / "use.py").write_text(python + "print(tuple(layers[0].shape), mix(layers[0]).shape)\n")
    shapes = run(f"{sys.executable} use.py", home)
    assert shapes.strip() == "(3, 3, 512) torch.Size([3, 512])"
    # a translation model's data, and text of the target language
    for name in ("data-bin", "train.bpe.en"):
        (home / "pairs").mkdir(exist_ok=True)
        (home / "pairs" / name.replace("train.bpe.en", "mono")).symlink_to(folder / name)
    (home / "pairs" / "fairseq_contout").symlink_to(ROOT / "fairseq_contout")
    script = pretrained.replace("language_modeling …", f"language_modeling {LANGUAGE_MODEL}")
    script = script.replace("checkpoint_best.pt …", f"checkpoint_best.pt {TRANSLATION}")
    assert script.count("…") == 0 and script != pretrained
    script = script.replace("checkpoints/", "checkpoints-pretrained/")
    script = script.replace("--destdir mono-bin", "--destdir mono-bin --validpref mono")
    run(commands(script), home / "pairs")
    assert (home / "pairs" / "checkpoints-translation" / "checkpoint_best.pt").exists()
