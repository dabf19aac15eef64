"""examples/demo/new_word.py: a trained model learns words from one sentence each."""

import io
import logging
import sys

import pytest
import torch
from recipe_data import load_script


@pytest.fixture
def module():
    yield load_script("demo", "new_word.py")
    logging.disable(logging.NOTSET)


@pytest.fixture
def prepared(corpus, tmp_path):
    (tmp_path / "bin").symlink_to(corpus.data)
    (tmp_path / "subwords.codes").symlink_to(corpus.codes)
    return tmp_path


def test_words_are_learned(module, prepared, trained, monkeypatch, capsys):
    checkpoint = trained("contrastive-learned")
    # a table of 40 rows: fewer neighbours than the demonstration's
    options = module.FAIRSEQ_TASK
    monkeypatch.setitem(options, "knn", 10)
    learner = module.Learner(checkpoint, prepared)
    assert learner.translate("x kilu me.") == "kilu me."
    assert learner.learn("x qa.", "*zebu|ki*.") == "zebu"
    assert learner.learn("x lu qe.", "lu *yak|me*.") == "yak"
    assert learner.learn("x lu qe po.", "lu *yak|me* po.") == "yak"
    assert learner.hub.tgt_dict.symbols[-2:] == ["zebu", "yak"]
    assert len(learner.examples["yak"]) == 2
    table = learner.hub.models[0].decoder.continuous_output.table
    assert len(table.weight) == len(learner.trained) + 2
    # ahead by 0.15 where they stand, and otherwise as the word that they are like
    trained_rows, rows = learner.table.rows().detach(), table.rows().detach()
    for word, like in (("zebu", "ki"), ("yak", "me")):
        mean = torch.nn.functional.normalize(sum(h for h, _ in learner.examples[word]), dim=0)
        row, other = (
            rows[learner.hub.tgt_dict.index(word)],
            trained_rows[learner.trained.index(like)],
        )
        ahead = float((trained_rows @ mean).max()) + 0.15
        assert ahead < 1
        assert float(row.norm()) == pytest.approx(1) and float(row @ mean) == pytest.approx(ahead)
        rest, wanted = row - ahead * mean, other - (other @ mean) * mean
        assert float(torch.cosine_similarity(rest, wanted, dim=0)) == pytest.approx(1, abs=1e-4)
    assert learner.translate("x qa.").startswith("zebu")
    assert learner.translate("x ba do.") == "ba do."  # nothing to do with them
    read, forward = [], learner.hub.models[0].forward
    monkeypatch.setattr(
        learner.hub.models[0], "forward", lambda *args: read.append(args[2]) or forward(*args)
    )
    assert learner.learn("x qa me lu.", "zebu me *okapi|me*.") == "okapi"
    symbols = learner.hub.tgt_dict.symbols
    assert [symbols[i] for i in read[0][0]] == ["</s>", "zebu", "me"]
    talk = "\nx qa.\nx qa. => no word\nx qa. => *ki|me*\nx qa. => *gnu|newt*\n => *gnu|me*\n"
    capsys.readouterr()
    module.talk(learner, io.StringIO(talk))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("  zebu") and len(lines) == 5
    assert "must have one new word in asterisks" in lines[1]
    assert "'ki' is in its dictionary" in lines[2]
    assert "'newt' is not; take another" in lines[3]
    assert "must have a sentence before =>" in lines[4]


def test_the_model_must_be_there(module, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(sys, "argv", ["new_word.py"])
    with pytest.raises(SystemExit):
        module.main(["--checkpoint", str(tmp_path / "none.pt")])
    assert "none.pt: no such file; make demo trains one" in capsys.readouterr().err
