"""Every run.sh of examples/, end to end on slices of the bundled corpus: make test-recipes."""

import gzip
import json
import lzma
import os
import re
import signal
import subprocess
import sys
import time

import pytest
import recipe_data
import torch
from fairseq import checkpoint_utils
from recipe_data import REPOSITORY, environment, error, results, run

import fairseq_contout  # noqa: F401  (lets torch >= 2.6 load fairseq's checkpoints)

pytestmark = pytest.mark.recipes

TINY = ["--max-update", "4", "--max-epoch", "9", "--batch-size", "30"]
TINY += ["--encoder-layers", "1", "--decoder-layers", "1"]
TRANSFORMER = [*TINY, "--encoder-attention-heads", "2", "--decoder-attention-heads", "2"]
for _side in ("encoder", "decoder"):
    TRANSFORMER += [f"--{_side}-embed-dim", "16", f"--{_side}-ffn-embed-dim", "32"]
LSTM = [*TINY, "--encoder-embed-dim", "16", "--decoder-embed-dim", "16"]
LSTM += ["--encoder-hidden-size", "8", "--decoder-hidden-size", "16"]
LSTM += ["--decoder-out-embed-dim", "16"]

#: set, languages, layout, options, name of the test set, a continuous recipe
SETS = {
    "multi30k": (
        "multi30k.de-en",
        recipe_data.multi30k,
        TRANSFORMER,
        "test_2016_flickr",
        "best-frozen",
    ),
    "multi30k-reverse": (
        "multi30k.en-de",
        recipe_data.multi30k,
        TRANSFORMER,
        "test_2016_flickr",
        "cosine-learned",
    ),
    "tatoeba": ("tatoeba.de-en", recipe_data.tatoeba, TRANSFORMER, "tatoeba-test", "hybrid"),
    "iwslt14": (
        "iwslt14.de-en",
        recipe_data.iwslt14,
        TRANSFORMER,
        "iwslt14-test",
        "contrastive-frozen",
    ),
    "iwslt14-prepared": (
        "iwslt14.de-en",
        recipe_data.iwslt14_prepared,
        TRANSFORMER,
        "iwslt14-test",
        "syn-margin",
    ),
    "iwslt14-small": (
        "iwslt14.de-en",
        recipe_data.iwslt14_prepared,
        TRANSFORMER,
        "iwslt14-test",
        "best",
    ),
    "iwslt14-frozen": (
        "iwslt14.de-en",
        recipe_data.iwslt14_prepared,
        TRANSFORMER,
        "iwslt14-test",
        "best-frozen",
    ),
    "multi30k-words": (
        "multi30k.de-en",
        recipe_data.multi30k,
        TRANSFORMER,
        "test_2016_flickr",
        "best",
    ),
    "iwslt16": ("iwslt16.fr-en", recipe_data.iwslt16, LSTM, "tst2015+tst2016", "vmf-authors"),
    "wmt16": ("wmt16.ro-en", recipe_data.wmt16, TRANSFORMER, "newstest2016", "contrastive"),
    "wmt14": ("wmt14.en-de", recipe_data.wmt14, TRANSFORMER, "newstest2014", "power-spherical"),
}
#: environment of a set
MORE = {
    "iwslt14-small": {"SIZE": "small"},
    "multi30k-words": {"SUBWORD_METHOD": "none", "TABLE_DIM": 16},
}
#: sets whose languages have dictionaries of their own
SEPARATE = {"iwslt14-frozen", "multi30k-words"}


def check(result, recipe, test_set):
    assert result["recipe"] == recipe and result["test_set"] == test_set
    assert result["updates"] == 4 and result["seed"] == 1
    for name in ("bleu", "chrf", "greedy_bleu", "greedy_chrf"):
        assert 0 <= result[name] <= 100
    assert result["train_seconds"] > 0 and result["seconds_per_update"] > 0
    assert result["peak_memory_bytes"] > 50e6
    shares = result["word_f1"]
    assert list(shares) == ["0", "1", "2-4", "5-9", "10-99", "100-999", "1000-"]
    assert all(share is None or 0 <= share <= 100 for share in shares.values())
    assert shares["100-999"] is not None  # the references have such words
    assert result["bleu_signature"].startswith("nrefs:1|")
    assert result["chrf_signature"].startswith("nrefs:1|")


def check_beginning(result, options, separate):
    """Check what begins with bilingual vectors: nothing twice, nothing left out."""
    source = "-de" if separate else ""
    encoder = "--encoder-embed-path ENCODER_VECTORS" in options
    decoder = "--decoder-embed-path DECODER_VECTORS" in options
    if result["recipe"] == "best":
        assert result["begins_with"] == "table-fasttext-mixed-d16-e1-s1--center"
        assert (encoder, decoder) == (separate, False)
    else:
        assert result["table"].startswith("table-fasttext-d16-")
        assert result["begins_with"].startswith("table-fasttext-mixed-d16-")
        assert result["begins_with"].endswith(f"--center{source}")
        assert (encoder, decoder) == (True, separate)


@pytest.mark.parametrize("name", sorted(SETS))
def test_recipe(tmp_path, name):
    folder, layout, options, test_set, recipe = SETS[name]
    layout(tmp_path / "data with blanks", 300)
    shared = {"PREP_DIR": tmp_path / "prep", **MORE.get(name, {})}
    more = {**shared, "DATA_DIR": tmp_path / "data with blanks"}
    softmax = results(run(folder, "softmax", tmp_path / "softmax", *options, **more))
    check(softmax[0], "softmax", test_set)
    # the second run needs no DATA_DIR: it finds the data prepared
    process = run(folder, recipe, tmp_path / "ours", *options, **shared)
    ours = results(process)[0]
    check(ours, recipe, test_set)
    if recipe.startswith("best"):
        check_beginning(ours, (tmp_path / "ours/.stamps/training").read_text(), name in SEPARATE)
    assert "binarise: done before, skipped" in process.stderr
    tokens = "tok:none" if folder.startswith("iwslt14") else "tok:13a"
    assert tokens in softmax[0]["bleu_signature"]


def test_pretrained(tmp_path):
    recipe_data.iwslt14_prepared(tmp_path / "data", 200)
    recipe_data.multi30k(tmp_path / "more", 100)
    (tmp_path / "more" / "val.de.xz").unlink()  # text of one language
    more = {"SIZE": "small", "DATA_DIR": tmp_path / "data", "PREP_DIR": tmp_path / "prep"}
    text = ",".join(str(tmp_path / "more" / name) for name in ("train", "val"))
    more.update(MONO_TEXT=text, PRETRAIN_UPDATES=5)
    command = ["iwslt14.de-en", "pretrained", tmp_path / "ours", *TRANSFORMER]
    result = results(run(*command, **more))[0]
    check(result, "pretrained", "iwslt14-test")
    assert result["pretrain_seconds"] > 0 and result["pretrain_cpu_seconds"] > 0
    assert result["begins_with"] == "language-model" and "PRETRAIN_UPDATES=5 " in result["command"]
    (folder,) = (tmp_path / "prep").glob("language-model-*")
    assert json.loads((folder / "train_stats.json").read_text())["cpu_seconds"] > 0
    assert "num_updates 5" in (folder / "train.log").read_text()
    log = (tmp_path / "ours" / "train.log").read_text()
    assert log.count("tensors loaded") == 2
    pieces = tmp_path / "prep" / "pieces"
    counts = {
        name: len((pieces / name).read_text().splitlines()) for name in ("mono.de", "mono.en")
    }
    assert counts["mono.en"] > counts["mono.de"] > 0


def test_bpe_dropout(tmp_path):
    recipe_data.multi30k(tmp_path / "data", 200)
    prep, out = tmp_path / "prep", tmp_path / "out"
    more = {"DATA_DIR": tmp_path / "data", "PREP_DIR": prep, "SUBWORDS": 500}
    more.update(BPE_DROPOUT=0.2, SEGMENTATIONS=2)
    options = [*TRANSFORMER, "--max-epoch", "3", "--max-update", "99"]
    result = results(run("multi30k.de-en", "best", out, *options, **more))[0]
    assert " BPE_DROPOUT=0.2 SEGMENTATIONS=2 " in result["command"]
    clean = (prep / "clean" / "train.en").read_text()
    texts = [(prep / "pieces" / f"{name}.en").read_text() for name in ("dropout-1", "dropout-2")]
    whole = (prep / "pieces" / "train.en").read_text()
    assert len({whole, *texts}) == 3
    for text in texts:
        assert text.replace("@@ ", "") == clean
        assert 1.05 < len(text.split()) / len(whole.split()) < 2
    assert (prep / "pieces" / "dropout.en").read_text() == whole + "".join(texts)
    mixed = (prep / "pieces" / "train.mixed").read_text()  # what fastText reads
    assert mixed.count("\n") == 3 * clean.count("\n")
    # other text has all merges: segmented again, it is the same
    for name in ("valid", "train"):
        command = [sys.executable, REPOSITORY / "preprocess/apply_subwords.py", "--model"]
        command += [prep / "subwords.codes", "--input", prep / f"clean/{name}.en"]
        subprocess.run([*command, "--output", tmp_path / name], check=True, capture_output=True)
        assert (tmp_path / name).read_text() == (prep / f"pieces/{name}.en").read_text()
    # each epoch reads the next, in turn
    log = (out / "train.log").read_text()
    loaded = r"examples from: .*/(bin[-0-9]*)/train\.de-en\.en"
    # fairseq loads what a fourth would read before it stops
    assert re.findall(loaded, log) == ["bin", "bin-2", "bin", "bin-2"]
    # nothing is unknown: one dictionary for all of them
    symbols = {line.split()[0] for line in (prep / "bin" / "dict.en.txt").read_text().splitlines()}
    assert set("".join(texts).split()) <= symbols
    assert {path.read_bytes() for path in prep.glob("bin*/dict.en.txt")} == {
        (prep / "dictionary" / "dict.en.txt").read_bytes()
    }
    # a training that goes on takes the next
    longer = [*options[:-3], "4", *options[-2:]]
    results(run("multi30k.de-en", "best", out, *longer, **more))
    assert re.findall(loaded, (out / "train.log").read_text())[4:] == ["bin-2", "bin"]
    again = {**more, "BPE_DROPOUT": "", "SEGMENTATIONS": ""}
    message = error(run("multi30k.de-en", "best", tmp_path / "other", *options, **again))
    assert "stage subwords was finished with other inputs" in message and "dropout=0.2" in message
    again["PREP_DIR"] = tmp_path / "again"
    message = error(run("multi30k.de-en", "best", out, *options, **again))
    assert "training with other options" in message and "dropout=0.2" in message


def test_large_vocabulary(tmp_path):
    recipe_data.multi30k(tmp_path / "data", 200)
    (tmp_path / "words").write_text(
        "".join(f"extra{i}\n" for i in range(3000)) + "Two words\nthe\n"
    )
    more = {"DATA_DIR": tmp_path / "data", "WORDS": tmp_path / "words", "TABLE_DIM": 16}
    command = ["large-vocabulary", "contrastive-frozen", tmp_path / "ours", *TRANSFORMER]
    result = results(run(*command, VOCABULARY=2000, **more))[0]
    check(result, "contrastive-frozen", "test_2016_flickr")
    prep = tmp_path / "ours" / "prep"
    assert result["search"] == "shortlist" and (prep / "lexicon.safetensors").exists()
    found = results(run(*command, VOCABULARY=2000, SEARCH="ivf", PREP_DIR=prep, **more))[0]
    assert found["search"] == "ivf" and " SEARCH=ivf " in found["command"]
    assert found["updates"] == result["updates"]  # the same training
    assert list((tmp_path / "ours").glob("*ivf*"))
    words = (prep / "bin" / "dict.en.txt").read_text().splitlines()
    assert len(words) == len(set(words)) == 2000 and words[-1].startswith("extra")
    checkpoint = tmp_path / "ours" / "checkpoints" / "checkpoint_best.pt"
    assert checkpoint.stat().st_size < 1.5e6  # neither rows nor moments of 2,000 words
    again = {**more, "PREP_DIR": prep, "VOCABULARY": 9000}
    assert "finished with other inputs" in error(run(*command[:2], tmp_path / "more", **again))
    again["PREP_DIR"] = tmp_path / "other"
    assert "must be at most" in error(run(*command[:2], tmp_path / "more", **again))
    again["WORDS"] = tmp_path / "none"
    assert "none does not exist" in error(run(*command[:2], tmp_path / "more", **again))


@pytest.mark.parametrize("recipe", ["softmax", "contrastive"])
def test_average_of_the_last_epochs(tmp_path, recipe):
    recipe_data.multi30k(tmp_path / "data", 300)
    more = {"DATA_DIR": tmp_path / "data", "CHECKPOINT": "average", "AVERAGE": 2}
    temperatures = {"softmax": ["1", "3"], "contrastive": ["3", "2.5"]}[recipe]
    more |= {"LENPEN": "0.5,2", "TEMPERATURE": ",".join(temperatures)}  # by the validation data
    options = [*TRANSFORMER, "--max-epoch", "3", "--max-update", "99", "--batch-size", "20"]
    options += ["--warmup-updates", "10", "--lr", "2e-2"]  # weights that translate differently
    out = tmp_path / "out"
    found = results(run("multi30k.de-en", recipe, out, *options, **more))[0]
    given = "\\,".join(temperatures)
    expected = f" CHECKPOINT=average AVERAGE=2 LENPEN=0.5\\,2 TEMPERATURE={given} "
    assert expected in found["command"]
    assert found["lenpen"] in (0.5, 2)
    assert found["temperature"] in map(float, temperatures)
    stamp = (out / ".stamps" / "decode-test-beam5").read_text()
    taken = re.search(r"--temperature (\S+)", stamp)  # fairseq's default is 1
    assert float(taken[1] if taken else 1) == found["temperature"]
    ends = ["" if value == "1" else f"-temperature{value}" for value in temperatures]
    logs = [out / "decode" / f"valid-lenpen2{end}.beam5.log" for end in ends]
    # log-probabilities at another temperature are others
    assert len({re.search(r"H-0\t(\S+)", log.read_text())[1] for log in logs}) == 2
    kept = sorted(path.name for path in (out / "checkpoints").glob("checkpoint[0-9]*.pt"))
    assert kept == ["checkpoint2.pt", "checkpoint3.pt"]
    means = load_weights(out / "checkpoints" / "checkpoint_average.pt")
    parts = [load_weights(out / "checkpoints" / name) for name in kept]
    for name, mean in means.items():
        expected = sum(part[name].double() for part in parts) / 2
        torch.testing.assert_close(mean.double(), expected, atol=1e-6, rtol=1e-6)
    assert any(not torch.equal(means[name], parts[0][name]) for name in means)
    more["AVERAGE"] = 3
    message = error(run("multi30k.de-en", recipe, out, *options, **more))
    assert "needs the checkpoints of 3 epochs" in message and "has 2" in message
    check_bleu_over_time(out, found)
    # another choice of the checkpoint trains nothing anew
    again = run("multi30k.de-en", recipe, out, *options, PREP_DIR=out / "prep", CHECKPOINT="last")
    assert results(again)[0]["updates"] == found["updates"]


def check_bleu_over_time(out, found):
    """The benchmark's last point is what the recipe found; the one before has other weights."""
    command = [sys.executable, REPOSITORY / "benchmarks" / "bleu_over_time.py", out / "prep/bin"]
    command += ["--run", f"ours={out}", "--run", f"again={out}", "--run", f"alone={out}"]
    command += ["--cost", "again=0.5", "--start", "again=7", "--average-own", "alone=1"]
    command += ["--reference", out / "prep/raw/test.en", "--subset", "test", "--lowercase"]
    command += ["--source-lang", "de", "--target-lang", "en", "--average", "2"]
    for option in ("lenpen", "temperature"):  # "alone" has those of all, the others their own
        command += [f"--{option}", 9]
        for name in ("ours", "again"):
            command += [f"--{option}-own", f"{name}={found[option]}"]
    command += ["--json", out / "rows.json", "--plot", out / "rows.png"]
    command = [*map(str, command), "--decode-options", "--max-len-b 8"]
    process = subprocess.run(command, check=False, capture_output=True, text=True, timeout=900)
    assert process.returncode == 0, process.stderr[-3000:]
    rows = json.loads((out / "rows.json").read_text())
    assert [(row["method"], row["epoch"]) for row in rows] == [
        (name, epoch) for name in ("ours", "again", "alone") for epoch in (2, 3)
    ]
    last = rows[1]
    assert rows[0]["chrf"] != last["chrf"]
    assert (last["updates"], last["bleu"], last["chrf"]) == tuple(
        found[name] for name in ("updates", "bleu", "chrf")
    )
    assert rows[0]["updates"] < last["updates"] and last["cost"] == last["updates"]
    assert rows[3] == {**last, "method": "again", "cost": 7 + last["cost"] / 2}
    assert [row["temperature"] for row in rows[3:]] == [found["temperature"], 9, 9]
    assert [row["averaged"] for row in rows] == [1, 2, 1, 2, 1, 1]
    assert rows[5]["cost"] == last["cost"]
    if found["recipe"] == "softmax":  # of so small a model several weights may translate alike
        assert rows[5]["chrf"] != last["chrf"]
    assert (out / "rows.png").read_bytes().startswith(b"\x89PNG")


def load_weights(path):
    return checkpoint_utils.load_checkpoint_to_cpu(str(path))["model"]


def test_test_sets_and_other_options(tmp_path):
    recipe_data.multi30k(tmp_path / "data", 300)
    more = {"DATA_DIR": tmp_path / "data"}
    for side, language in enumerate(("de", "en")):
        text = recipe_data.lines(recipe_data.sentences(15, skip=400), side)
        (tmp_path / f"other.{language}").write_bytes(text)
    out = tmp_path / "out"
    first = run("multi30k.de-en", "margin-batch", out, *TRANSFORMER, **more)
    check(results(first)[0], "margin-batch", "test_2016_flickr")
    again = run(
        "multi30k.de-en", "margin-batch", out, *TRANSFORMER, TEST_SETS=tmp_path / "other", **more
    )
    found = results(again)
    check(found[0], "margin-batch", "other")
    assert found[1] == json.loads(first.stdout)
    for stage in ("clean", "train", "decode-test-beam5"):
        assert f"{stage}: done before, skipped" in again.stderr
    assert len((out / "decode" / "extra-other.beam5.txt").read_text().splitlines()) == 15
    other = [*TRANSFORMER, "--dropout", "0.2"]
    message = error(run("multi30k.de-en", "margin-batch", out, *other, **more))
    assert "training with other options" in message and "now « --dropout 0.2" in message
    message = error(run("multi30k.de-en", "margin-batch", out, **{**more, "SUBWORDS": 90}))
    assert "stage subwords was finished with other inputs" in message


def test_sentencepiece_and_download(tmp_path):
    recipe_data.multi30k(tmp_path / "site", 300)
    for name in ("train.de", "val.de", "test_2016_flickr.de"):  # the site has .gz alone
        packed = tmp_path / "site" / f"{name}.xz"
        packed.with_suffix(".gz").write_bytes(gzip.compress(lzma.decompress(packed.read_bytes())))
    found = results(
        run(
            "multi30k.de-en",
            "margin",
            tmp_path / "out",
            *TRANSFORMER,
            DATA_URL=f"file://{tmp_path}/site",
            SUBWORD_METHOD="sentencepiece",
            SUBWORDS=400,
            TABLE_SOURCE="random",
        )
    )
    check(found[0], "margin", "test_2016_flickr")
    assert "▁" not in (tmp_path / "out" / "decode" / "test.beam5.txt").read_text(encoding="utf-8")


def test_interrupted_training_continues(tmp_path):
    recipe_data.multi30k(tmp_path / "data", 300)
    out = tmp_path / "out"
    options = [*TRANSFORMER, "--max-epoch", "400", "--max-update", "120", "--batch-size", "10"]
    options += ["--save-interval-updates", "10", "--keep-interval-updates", "1"]
    command = [REPOSITORY / "examples" / "multi30k.de-en" / "run.sh", "softmax", out, *options]
    process = subprocess.Popen(
        command,
        env=environment(DATA_DIR=tmp_path / "data"),
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 300
    while not (out / "checkpoints" / "checkpoint_last.pt").exists():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not (out / "results.jsonl").exists()
    again = run("multi30k.de-en", "softmax", out, *options)
    result = results(again)[0]
    assert result["updates"] == 120
    assert "Loaded checkpoint" in again.stderr
    assert json.loads((out / "train_stats.json").read_text())["runs"] == 2
    longer = [option if option != "120" else "125" for option in options]
    assert results(run("multi30k.de-en", "softmax", out, *longer))[0]["updates"] == 125


def test_demo(tmp_path):
    recipe_data.demo(tmp_path / "data", 300)
    more = {"DATA_DIR": tmp_path / "data", "OUT_DIR": tmp_path / "out"}
    process = run("demo", *TRANSFORMER, **more)
    assert process.returncode == 0, process.stderr[-3000:]
    assert process.stdout.count("translation  ") == 10
    assert "BLEU beam 5" in process.stdout.splitlines()[-2] and "nrefs:1" in process.stdout


def test_demo_compare(tmp_path):
    recipe_data.demo(tmp_path / "data", 300)
    for name in ("Makefile", "examples", "preprocess", "fairseq_contout"):
        (tmp_path / name).symlink_to(REPOSITORY / name)
    command = ["make", "-o", "venv", f"VENV={sys.prefix}", "demo-compare"]
    process = subprocess.run(
        command, cwd=tmp_path, env=environment(DATA_DIR=tmp_path / "data"),
        check=False, capture_output=True, text=True, timeout=900,
    )  # fmt: skip
    assert process.returncode == 0, process.stderr[-3000:]
    table = [line.split(" | ") for line in process.stdout.splitlines() if line.startswith("|")]
    assert [cells[0] for cells in table[2:]] == ["| best", "| softmax"]
    # both read the same text, and train as long
    names = (tmp_path / "demo-out", tmp_path / "demo-out" / "softmax")
    ours, softmax = (json.loads((name / "results.jsonl").read_text()) for name in names)
    assert ours["updates"] == softmax["updates"] > 0
    assert not (names[1] / "prep").exists()
    for cells, result in zip(table[2:], (ours, softmax)):
        assert f"{result['bleu']:.2f}" in cells and f"{result['greedy_bleu']:.2f}" in cells
