"""examples/open-vocabulary: counting of new words, and the recipe on a slice: make test-recipes."""

import sys

import pytest
import recipe_data
from recipe_data import REPOSITORY, error, load_script, results, run
from test_recipes import TRANSFORMER

sys.path.insert(0, str(REPOSITORY / "examples" / "lib"))


def load_score():
    return load_script("open-vocabulary", "score.py")


def test_new_words_are_counted_as_often_as_they_are_right(tmp_path):
    module = load_score()
    hypotheses = ["a newt newt sat", "the gnu", "a"]
    references = ["a newt sat on a gnu", "the gnu gnu", "a"]
    found = module.found_words(hypotheses, references, {"newt", "gnu", "yak"})
    assert found == {"recall": 50.0, "precision": 66.67, "found": 2, "produced": 3, "wanted": 4}
    found = module.found_words(["a", "b", "c"], references, {"newt"})
    assert found["recall"] == 0 and found["precision"] is None
    with pytest.raises(ValueError, match="must have words that were no targets"):
        module.found_words(hypotheses, references, {"yak"})
    (tmp_path / "dict").write_text("the 7\nmadeupword0000 0\ngnu 1\n")
    assert module.dictionary_words(tmp_path / "dict") == {"the", "gnu"}


def test_a_bonus_may_cost_no_bleu(tmp_path, capsys):
    module = load_script("open-vocabulary", "bonus.py")
    found = {"6": (31.0, 10.0), "7": (30.5, 15.0), "8": (30.0, 20.0), "9": (29.9, 25.0)}
    assert module.best_bonus(found, 30.0) == "8" and module.best_bonus(found, 30.8) == "6"
    assert module.best_bonus(found, 32.0) == "6"
    (tmp_path / "trained").write_text("the 7\na 5\n sat 3\n")
    (tmp_path / "extended").write_text("the 7\na 5\n sat 3\nnewt 1\ngnu 1\n")
    (tmp_path / "reference").write_text("the newt sat the a\na gnu sat a the\n")
    texts = {
        "base": ("the a sat the a", "a a sat a the"),
        "1": ("the newt sat the a", "a a sat a the"),
        "2": ("the newt sat the a", "a gnu sat a the"),
        "3": ("gnu newt gnu newt a", "gnu gnu newt a a"),
    }
    for name, lines in texts.items():
        log = "".join(f"H-{i}\t-1.0\t{line}\n" for i, line in enumerate(lines))
        (tmp_path / name).write_text(log)
    module.main(
        [f"--{name}={tmp_path / name}" for name in ("base", "reference", "extended")]
        + [f"--dictionary={tmp_path / 'trained'}"]
        + [f"{bonus}={tmp_path / bonus}" for bonus in "123"]
    )
    told = capsys.readouterr()
    assert told.out == "2\n" and "bonus 2: BLEU 100.00, recall 100.0 %" in told.err
    assert "bonus 1: BLEU" in told.err and "recall 50.0 %" in told.err


@pytest.mark.recipes
def test_open_vocabulary(tmp_path):
    recipe_data.multi30k(tmp_path / "data with blanks", 300)
    more = {"DATA_DIR": tmp_path / "data with blanks", "TRAINED_WORDS": 200, "TABLE_DIM": 16}
    out = tmp_path / "out"
    process = run("open-vocabulary", out, *TRANSFORMER, **more)
    (found,) = results(process)
    assert found["recipe"] == "best-frozen" and found["trained_words"] == 200
    assert found["new_words"] > 200 and found["new_words_in_references"] > 20
    names = ["base", "base-replace-unk", "extended", "extended-shortlist", "extended-bonus"]
    assert found["bonus"] in (6, 6.5, 7, 7.5, 8)
    for name in [*names, "softmax", "softmax-replace-unk"]:
        assert 0 <= found[name]["bleu"] <= 100 and 0 <= found[name]["recall"] <= 100
    for name in ("base", "softmax"):
        assert found[name]["recall"] == 0 and found[name]["precision"] is None
    assert " SKIP_UNKNOWN" not in found["command"] and "TRAINED_WORDS=200 " in found["command"]
    options = (out / "continuous" / ".stamps" / "training").read_text()
    assert "--skip-unknown" in options and "--encoder-embed-path ENCODER_VECTORS" in options
    assert "--decoder-embed-path" not in options
    assert "words that training did not have" in (
        out / "continuous" / "decode" / "extended.beam5.log"
    ).read_text() + process.stderr  # fmt: skip
    again = run("open-vocabulary", out, *TRANSFORMER, PREP_DIR=out / "prep", **more)
    assert results(again) == [found] and "decode-extended-beam5: done before" in again.stderr
    other = {**more, "SKIP_UNKNOWN": 0, "TABLE_TEXT": "target", "PREP_DIR": out / "prep"}
    command = [tmp_path / "other", *TRANSFORMER, "--max-update", "2"]
    (found,) = results(run("open-vocabulary", *command, RECIPE="cosine", **other))
    assert found["recipe"] == "cosine" and "SKIP_UNKNOWN=0 " in found["command"]


@pytest.mark.recipes
def test_bad_values_are_refused(tmp_path):
    def message(*arguments, **more):
        return error(run("open-vocabulary", *arguments, **more))

    assert "TRAINED_WORDS must be" in message(tmp_path, TRAINED_WORDS="many")
    assert "RECIPE must have a frozen table" in message(tmp_path, RECIPE="contrastive")
    assert "TABLE_SOURCE must be fasttext" in message(tmp_path, TABLE_SOURCE="random")
    for bonus in ("much", "6,", "7..5", "."):
        assert "BONUS must be a number, or several" in message(tmp_path, BONUS=bonus)
    assert "SEARCH must not be given" in message(tmp_path, SEARCH="ivf")
    assert "OUT_DIR must be given" in message()
