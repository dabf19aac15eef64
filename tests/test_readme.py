"""The README's commands run as they stand there, on a small corpus and with a small model."""

import os
import re
import subprocess
import sys
from pathlib import Path

import cli
import pytest

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "examples/README.md"]


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def run(script, folder):
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    environment["PYTHONPATH"] = str(ROOT)
    result = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=folder, env=environment, capture_output=True, text=True, timeout=280,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-3000:]
    return result.stdout


def smaller(script):
    """The same commands with a model that trains in seconds."""
    assert "continuous_transformer_iwslt_de_en" in script and "--dim 128" in script
    script = script.replace("continuous_transformer_iwslt_de_en", "continuous_transformer_tiny")
    script = script.replace("--dim 128", "--dim 16 --epoch 1")
    return script.replace("--max-tokens 4096", "--max-tokens 1000 --max-update 20 --cpu")


@pytest.fixture(scope="module")
def folder(corpus, tmp_path_factory):
    """A user's folder: text in subwords, codes, binarised data, and the checkout's folders."""
    home = tmp_path_factory.mktemp("user")
    for name in ("preprocess", "fairseq_contout"):
        (home / name).symlink_to(ROOT / name)
    for part in ("train", "valid", "test"):
        for side, language in (("src", "de"), ("tgt", "en")):
            text = (corpus.raw / f"{part}.{side}").read_text()
            (home / f"{part}.bpe.{language}").write_text(text)
    (home / "codes").write_text(corpus.codes.read_text())
    prefixes = [f"--{p}pref={home}/{p}.bpe" for p in ("train", "valid", "test")]
    cli.call("preprocess", "-s", "de", "-t", "en", *prefixes, "--destdir", home / "data-bin")
    return home


def test_minimal_use(folder):
    (script,) = [block for block in blocks("bash") if "fairseq-train data-bin" in block]
    output = run(smaller(script), folder)
    assert "Generate test with beam=5: BLEU" in output
    (python,) = blocks("python")
    code = python.replace(
        'model.translate("Zwei Hunde spielen im Schnee .")', "print(len(model.translate(['x']*2)))"
    )
    assert code != python
    (folder / "use.py").write_text(code)
    assert run("python use.py", folder).strip().endswith("2")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_files_and_targets_that_are_named_exist(document):
    text = document.read_text(encoding="utf-8")
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"\bmake ([a-z-]+)\b(?=[`\s])", text):
        if f"`make {target}`" in text or f"\nmake {target}" in text:
            assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
    for link in re.findall(r"\]\(([^)#]+)\)", text):
        if "://" not in link:
            assert (document.parent / link).exists(), link
    for path in re.findall(
        r"\b((?:preprocess|examples|scripts|benchmarks)/[\w./-]+\.(?:py|sh))", text
    ):
        assert (ROOT / path).exists(), path


def test_criterions_and_recipes_are_all_named():
    from fairseq.criterions import CRITERION_REGISTRY

    from fairseq_contout.criterions import ContinuousCriterion

    ours = [
        name
        for name, kind in CRITERION_REGISTRY.items()
        if isinstance(kind, type) and issubclass(kind, ContinuousCriterion)
    ]
    assert len(ours) == 8
    for name in ours:
        assert f"`{name}" in README, name
