"""Both stages of transformer_tiny.sh; the first test is one of make test-recipes."""

import re
import subprocess

import pytest
import recipe_data
from recipe_data import REPOSITORY, environment, error, results

SMALL = ["--batch-size", "30", "--encoder-attention-heads", "2", "--decoder-attention-heads", "2"]
for _side in ("encoder", "decoder"):
    SMALL += [f"--{_side}-embed-dim", "16", f"--{_side}-layers", "1"]


def run(*arguments, **variables):
    return subprocess.run(
        [REPOSITORY / "examples/multi30k.en-de/transformer_tiny.sh", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        env=environment(**variables),
    )


@pytest.mark.recipes
def test_both_stages_and_the_softmax(tmp_path):
    recipe_data.multi30k(tmp_path / "data", 200)
    more = {"DATA_DIR": tmp_path / "data", "PREP_DIR": tmp_path / "prep", "SUBWORDS": 500}
    more.update(FASTTEXT_EPOCHS=1, AVERAGE=1, FIRST=4, UPDATES=12)
    (found,) = results(run(tmp_path / "ours", *SMALL, LAST_SEED=2, **more))
    assert (found["recipe"], found["updates"], found["seed"]) == ("best", 12, 2)
    logs = [(tmp_path / "ours" / name / "train.log").read_text() for name in ("first", "last")]
    for log, margin, seed, updates in zip(logs, (0.0, 0.1), (1, 2), ({4}, {8, 12})):
        assert re.search(rf"'additive_margin': {margin}\b", log)
        assert re.search(rf"'seed': {seed}\b", log) and "fix_norm=True" in log
        saved = {int(n) for n in re.findall(r"Saved checkpoint .* (\d+) updates", log)}
        assert saved and saved <= updates
    softmax = run(tmp_path / "softmax", *SMALL, SOFTMAX=1, **more)
    (found,) = results(softmax)
    assert (found["recipe"], found["updates"]) == ("softmax", 12)


def test_what_is_refused(tmp_path):
    assert "OUT_DIR must be given" in error(run())
    refused = error(run(tmp_path / "out", FIRST=9, UPDATES=9))
    assert "the second the larger, but are 9 and 9" in refused
    assert "SOFTMAX must be 1 or 0, but is yes" in error(run(tmp_path / "out", SOFTMAX="yes"))
    assert not (tmp_path / "out").exists()
