"""examples/another-language on a slice, in three languages: make test-recipes."""

import gzip
from pathlib import Path

import pytest
import recipe_data
from recipe_data import error, results, run
from test_recipes import TRANSFORMER

pytestmark = pytest.mark.recipes

VARIANTS = ("aligned", "tuned-20", "tuned-20-frozen", "scratch-20", "softmax-20")


def three_languages(folder, size):
    """Write the slice with a third language: the first with other vowels in some of its words."""
    recipe_data.multi30k(folder, size)
    for name, pairs in zip(("train", "val", "test_2016_flickr"), recipe_data.parts(size)):
        text = recipe_data.lines(pairs, 0).decode().replace("o", "ou")
        (folder / f"{name}.fr.gz").write_bytes(gzip.compress(text.encode()))


def prep_of(out, language):
    return Path(f"{out / 'prep'}-{language}") / "bin"


def test_another_language(tmp_path):
    data, out = tmp_path / "data with blanks", tmp_path / "out"
    three_languages(data, 300)
    more = {"DATA_DIR": data, "PAIRS": 20, "TUNE_UPDATES": 3, "SCRATCH_UPDATES": 2}
    more.update(
        CHECK_EVERY=2, FREEZE="encoder", ALIGN_OPTIONS="--held-out-share 0.2 --refinements 1"
    )
    process = run("another-language", out, *TRANSFORMER, **more)
    (found,) = results(process)
    assert found["recipe"] == "best-frozen" and found["test_set"] == "test_2016_flickr"
    for name in ("trained", *VARIANTS):
        assert 0 <= found[name]["bleu"] <= 100 and 0 <= found[name]["chrf"] <= 100
    alignment = found["alignment"]
    assert alignment["lexicon"] == "identical" and alignment["pairs"] > 100
    assert 10 < alignment["held_out_words"] < alignment["pairs"] / 3
    assert set(alignment["precision"]) == {"before", "after"} and len(alignment["refinements"]) == 1
    assert "PAIRS=20 " in found["command"] and "RECIPE=best-frozen examples" in found["command"]
    stamps = {name: (out / name / ".stamps" / "training").read_text() for name in VARIANTS[1:]}
    assert "--freeze encoder" in stamps["tuned-20-frozen"]
    for name, stamp in stamps.items():
        tuned = name.startswith("tuned")
        assert ("--finetune-from-model BEGINNING" in stamp) == tuned and str(out) not in stamp
        assert ("--freeze" in stamp) == name.endswith("frozen")
    log = (out / "tuned-20" / "train.log").read_text()
    assert "loading pretrained model from" in log
    again = run("another-language", out, *TRANSFORMER, **more)
    assert results(again) == [found] and "exchange: done before" in again.stderr
    # with a lexicon, in another folder that shares what was prepared
    words = (prep_of(out, "de") / "dict.de.txt").read_text().splitlines()
    lexicon = tmp_path / "lexicon"
    pairs = [(word.rsplit(" ", 1)[0],) * 2 for word in words if not word.endswith(" 0")]
    lexicon.write_text("".join(f"{new} {old}\n" for new, old in pairs[:60] if "o" not in new))
    more.update(LEXICON=lexicon, PREP_DIR=out / "prep")
    (other,) = results(run("another-language", tmp_path / "other", *TRANSFORMER, **more))
    assert other["alignment"]["lexicon"] == "lexicon" and other["alignment"]["pairs"] < 60
    assert other["trained"]["bleu"] == found["trained"]["bleu"]


def test_bad_values_are_refused(tmp_path):
    def message(*arguments, **more):
        return error(run("another-language", *arguments, **more))

    assert "OUT_DIR must be given" in message()
    assert "RECIPE must have a frozen table" in message(tmp_path, RECIPE="contrastive")
    assert "TABLE_SOURCE must be fasttext" in message(tmp_path, TABLE_SOURCE="random")
    assert "TABLE_TEXT must be target" in message(tmp_path, TABLE_TEXT="both")
    assert "SEARCH must not be given" in message(tmp_path, SEARCH="ivf")
    for name in ("LENPEN", "TEMPERATURE"):
        assert f"{name} must be one number" in message(tmp_path, **{name: "1,2"})
    assert "PAIRS, TUNE_UPDATES" in message(tmp_path, PAIRS="100 10x")
    assert "DING must be a file" in message(tmp_path, DING=tmp_path / "none")
    (tmp_path / "ding").write_text("Hund {m} :: dog\n")
    both = {"DING": tmp_path / "ding", "LEXICON": tmp_path / "ding"}
    assert "must not both be given" in message(tmp_path, **both)
    assert "LEXICON must be a file" in message(tmp_path, LEXICON=tmp_path / "none")
