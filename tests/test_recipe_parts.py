"""The parts of the recipes in examples/lib, and their errors."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections import Counter

import pytest
import recipe_data
import torch
from recipe_data import REPOSITORY, error, load_script, run

LIB = REPOSITORY / "examples" / "lib"


def test_unknown_recipe(tmp_path):
    assert "power-spherical, but is softmaxx" in error(
        run("multi30k.de-en", "softmaxx", tmp_path / "out")
    )
    assert not (tmp_path / "out").exists()


def test_checkpoint_and_average_are_checked(tmp_path):
    wrong = {"CHECKPOINT": "latest"}
    assert "best, last or average, but is latest" in error(
        run("demo", "l2", tmp_path / "o", **wrong)
    )
    wrong = {"CHECKPOINT": "average", "AVERAGE": "0"}
    assert "AVERAGE must be a number of epochs" in error(run("demo", "l2", tmp_path / "o", **wrong))


def test_the_command_that_is_kept_is_one_for_a_shell():
    script = (
        f'. "{REPOSITORY}/examples/lib.sh"; SET=$1; RECIPE=cosine; '
        "EXTRA=(--adam-betas '(0.9, 0.98)' --max-epoch 2); recipe_command"
    )
    given = {"MODEL": "transformer", "TABLE_OPTIONS": "--mix-random 0.5", "SEED": "3"}
    for name, call in (
        ("iwslt16.fr-en", ["examples/iwslt16.fr-en/run.sh", "cosine", "OUT_DIR"]),
        ("demo", ["RECIPE=cosine", "OUT_DIR=OUT_DIR", "examples/demo/run.sh"]),
    ):
        printed = subprocess.run(
            ["bash", "-euc", script, "bash", name],
            env={"PATH": os.environ["PATH"], "PYTHON": sys.executable, **given},
            check=True, capture_output=True, text=True,
        ).stdout  # fmt: skip
        words = shlex.split(printed)
        variables = ["SEED=3", "TABLE_OPTIONS=--mix-random 0.5", "MODEL=transformer"]
        assert words == [*variables, *call, "--adam-betas", "(0.9, 0.98)", "--max-epoch", "2"]


def test_bpe_dropout_is_checked(tmp_path):
    for wrong, message in (
        ({"BPE_DROPOUT": "1"}, "a probability above 0 and below 1, but is 1"),
        ({"BPE_DROPOUT": "0.0"}, "a probability above 0 and below 1, but is 0.0"),
        ({"BPE_DROPOUT": "0.1", "SUBWORD_METHOD": "none"}, "needs SUBWORD_METHOD=bpe"),
        ({"BPE_DROPOUT": "0.1", "SEGMENTATIONS": "0"}, "SEGMENTATIONS must be a number, 1 or"),
        ({"SEGMENTATIONS": "8"}, "SEGMENTATIONS needs BPE_DROPOUT"),
        ({"PREP_DIR": tmp_path / "a:b"}, "PREP_DIR must be a folder without a colon"),
    ):
        assert message in error(run("multi30k.de-en", "softmax", tmp_path / "o", **wrong))


def test_averaging_refuses_another_model(tmp_path):
    paths = [tmp_path / "a.pt", tmp_path / "b.pt"]
    for size, path in enumerate(paths, start=2):
        state = {"model": {"w": torch.ones(size)}, "args": None, "cfg": {}}
        history = {"num_updates": 1, "best_loss": 0, "lr_scheduler_state": {}}
        state.update(optimizer_history=[history], extra_state={"train_iterator": {}})
        torch.save(state, path)
    command = [sys.executable, LIB / "average.py", "--output", tmp_path / "c.pt", *paths]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode != 0 and "must be of one model, but" in done.stderr
    assert "b.pt has other parameters than" in done.stderr and not (tmp_path / "c.pt").exists()
    command[-1] = tmp_path / "none.pt"
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert "none.pt is no file; train on" in done.stderr


def test_out_dir_must_be_given():
    assert "OUT_DIR must be given" in error(run("multi30k.de-en", "softmax"))


def test_missing_file(tmp_path):
    recipe_data.multi30k(tmp_path / "data", 20)
    (tmp_path / "data" / "val.en.gz").unlink()
    message = error(run("multi30k.de-en", "softmax", tmp_path / "o", DATA_DIR=tmp_path / "data"))
    assert "val.en" in message and "missing" in message and "DATA_DIR" in message
    assert not (tmp_path / "o" / "prep" / ".stamps" / "data").exists()
    assert not (tmp_path / "o" / ".lock").exists()


def test_data_dir_must_exist(tmp_path):
    message = error(run("multi30k.de-en", "softmax", tmp_path / "o", DATA_DIR=tmp_path / "none"))
    assert "DATA_DIR must be a folder" in message


def test_test_sets_are_checked_before_anything_is_done(tmp_path):
    (tmp_path / "a.de").write_text("eins\n", encoding="utf-8")
    message = error(run("multi30k.de-en", "l2", tmp_path / "o", TEST_SETS=tmp_path / "a"))
    assert "there is no" in message and "a.en" in message
    (tmp_path / "a.en").write_text("one\n", encoding="utf-8")
    twice = f"{tmp_path}/a,{tmp_path}/a"
    assert "two files a" in error(run("multi30k.de-en", "l2", tmp_path / "o", TEST_SETS=twice))


def test_misaligned_files(tmp_path):
    recipe_data.multi30k(tmp_path / "data", 20)
    (tmp_path / "data" / "train.en.gz").unlink()
    (tmp_path / "data" / "train.en").write_text("only one\n", encoding="utf-8")
    message = error(run("multi30k.de-en", "softmax", tmp_path / "o", DATA_DIR=tmp_path / "data"))
    assert "train.de and train.en must be aligned" in message and "20 and 1" in message
    assert not (tmp_path / "o" / "prep" / "raw" / "train.de").exists()


def test_text_that_is_not_utf8(tmp_path):
    recipe_data.multi30k(tmp_path / "data", 20)
    (tmp_path / "data" / "val.en.gz").unlink()
    (tmp_path / "data" / "val.en").write_bytes(b"caf\xe9\n")
    message = error(run("multi30k.de-en", "softmax", tmp_path / "o", DATA_DIR=tmp_path / "data"))
    assert "val.en: must be UTF-8" in message


def test_failed_download(tmp_path):
    message = error(
        run("multi30k.de-en", "softmax", tmp_path / "o", DATA_URL=f"file://{tmp_path}/nothing")
    )
    assert "could not be downloaded" in message and "DATA_DIR=FOLDER" in message


def test_line_breaks_inside_sentences_do_not_misalign(tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    (data / "a.de").write_text("eins\u2028zwei\rdrei\nvier\n", encoding="utf-8", newline="")
    (data / "a.en").write_text("one two three\nfour\n", encoding="utf-8")
    specification = "test de plain a.de - -\ntest en plain a.en - -\n"
    command = [sys.executable, LIB / "extract.py", "--data-dir", data, "--output", tmp_path / "raw"]
    command += ["--source-lang", "de", "--target-lang", "en"]
    subprocess.run(command, input=specification, text=True, check=True, capture_output=True)
    assert (tmp_path / "raw" / "test.de").read_text(encoding="utf-8") == "eins zwei drei\nvier\n"


def test_talks_keep_titles_and_drop_what_is_not_speech():
    sys.path.insert(0, str(LIB))
    try:
        import extract
    finally:
        sys.path.remove(str(LIB))
    pairs = [("uno & dos", "one"), ("tres", "three")]
    data = recipe_data.talk([(a.replace("&", "&amp;"), b) for a, b in pairs], 0)
    assert extract.sentences(data, "tags", "x") == ["uno & dos", "tres"]
    assert extract.sentences(recipe_data.segments(pairs, 1), "seg", "x") == ["one", "three"]


def write_generation(path, hypotheses):
    rows = (f"S-{i}\tx\nH-{i}\t-0.5\t{text}\nD-{i}\t-0.5\t{text}\n" for i, text in hypotheses)
    path.write_text("".join(rows), encoding="utf-8")


def score_command(tmp_path, *more):
    (tmp_path / "log").write_text(
        "epoch 001 | valid on 'valid' subset | loss 9 | accuracy 3 | num_updates 5\n"
        "epoch 001 | loss 9 | num_updates 5 | lr 1 | train_wall 50 | wall 60\n"
        "epoch 002 | loss 8 | num_updates 9 | lr 1 | train_wall 99 | wall 160\n"
        "epoch 002 | loss 8 | num_updates 10 | lr 1 | train_wall 50 | wall 120\n"
        "epoch 002 | valid on 'valid' subset | loss 8 | accuracy 4.5 | ece 2 | ppl 7.25 | "
        "num_updates 10 | best_loss 8\n",
        encoding="utf-8",
    )
    (tmp_path / "stats").write_text('{"seconds": 130.0, "peak_memory_bytes": 7, "runs": 2}')
    command = [sys.executable, LIB / "score.py", "--output", tmp_path / "out.json"]
    for name in ("beam", "greedy"):
        command += [f"--{name}", tmp_path / f"{name}.log"]
    command += ["--reference", tmp_path / "ref", "--target-lang", "en", "--recipe", "vmf"]
    command += ["--train-log", tmp_path / "log", "--train-stats", tmp_path / "stats"]
    command += ["--seed", "3", "--test-set", "news", *more]
    return subprocess.run(command, check=False, capture_output=True, text=True)


def test_score_orders_and_detokenises(tmp_path):
    (tmp_path / "ref").write_text(
        "It's a very small house.\nThe \u2028 dog sees me now.\n", "utf-8"
    )
    beam = [(1, "the dog sees me now ."), (0, "it &apos;s a very small house .")]
    write_generation(tmp_path / "beam.log", beam)
    write_generation(tmp_path / "greedy.log", [(0, "it is"), (1, "no")])
    process = score_command(tmp_path, "--lowercase")
    assert process.returncode == 0, process.stderr
    result = json.loads((tmp_path / "out.json").read_text())
    assert result["bleu"] > 99 and result["greedy_bleu"] < 50
    assert "case:lc" in result["bleu_signature"] and "tok:13a" in result["bleu_signature"]
    # an epoch that was begun twice counts once: 50 + 50 seconds in 10 updates
    assert (result["updates"], result["seconds_per_update"]) == (10, 10.0)
    assert (result["train_seconds"], result["peak_memory_bytes"], result["seed"]) == (130.0, 7, 3)
    last = {"updates": 10, "perplexity": 7.25, "accuracy": 4.5, "ece": 2.0}
    assert result["last_validation"] == last
    assert "it's a very small house." in (tmp_path / "beam.txt").read_text(encoding="utf-8")


def test_a_training_without_a_validation_has_none_to_tell_of(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(LIB)
    log = tmp_path / "log"
    log.write_text("epoch 001 | loss 9 | num_updates 5 | lr 1 | train_wall 50 | wall 60\n")
    assert load_script("lib", "score.py").last_validation(log) == {}


def test_word_f1_by_frequency(tmp_path):
    (tmp_path / "ref").write_text("a rare cat sat .\nthe cat the dog .\n", encoding="utf-8")
    (tmp_path / "text").write_text("cat cat the the the\n" + "a . " * 10 + "\n", encoding="utf-8")
    write_generation(tmp_path / "beam.log", [(0, "a cat cat sat ."), (1, "the the the new .")])
    write_generation(tmp_path / "greedy.log", [(0, "a"), (1, "b")])
    more = (
        "--tokenized",
        "--reference-tokens",
        tmp_path / "ref",
        "--train-text",
        tmp_path / "text",
    )
    process = score_command(tmp_path, *more)
    assert process.returncode == 0, process.stderr
    found = json.loads((tmp_path / "out.json").read_text())["word_f1"]
    # never seen: rare, sat, dog wanted, sat, new found, sat right; the, cat: 3 of 5 found are
    # right, and 4 wanted
    assert found["0"] == 40.0 and found["2-4"] == pytest.approx(200 * 3 / 9, abs=0.01)
    assert found["10-99"] == 100.0 and found["1"] is None and found["1000-"] is None
    assert sorted(found) == sorted(["0", "1", "2-4", "5-9", "10-99", "100-999", "1000-"])


def test_score_refuses_missing_translations(tmp_path):
    (tmp_path / "ref").write_text("one\ntwo\n", encoding="utf-8")
    write_generation(tmp_path / "beam.log", [(1, "two")])
    write_generation(tmp_path / "greedy.log", [(0, "one"), (1, "two")])
    process = score_command(tmp_path)
    assert process.returncode == 1 and "each of the 2 references" in process.stderr
    assert process.stderr.count("\n") == 1 and not (tmp_path / "out.json").exists()


def test_training_ends_with_the_script_that_started_it(tmp_path):
    sleeper = "import os,time; print(os.getpid(), flush=True); time.sleep(60)"
    outer = f"'{sys.executable}' '{LIB}/train.py' --stats '{tmp_path}/s' --save-dir '{tmp_path}'"
    outer += f" -- '{sys.executable}' -c '{sleeper}'; :"
    script = subprocess.Popen(["bash", "-c", outer], stdout=subprocess.PIPE, text=True)
    training = int(script.stdout.readline())
    script.kill()
    script.wait()
    deadline = time.monotonic() + 15
    while time.monotonic() < deadline:
        try:
            os.kill(training, 0)
        except ProcessLookupError:
            break
        time.sleep(0.1)
    else:
        os.kill(training, signal.SIGKILL)
        pytest.fail("the training lived on")
    stats = json.loads((tmp_path / "s").read_text())
    assert stats["runs"] == 1 and stats["seconds"] > 0


def test_training_keeps_the_memory_it_has(tmp_path, monkeypatch):
    command = [sys.executable, LIB / "train.py", "--stats", tmp_path / "s", "--save-dir", tmp_path]
    show = [*command, "--", "printenv", "MALLOC_MMAP_MAX_", "MALLOC_TRIM_THRESHOLD_"]
    monkeypatch.delenv("MALLOC_MMAP_MAX_", raising=False)
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "5")  # what the user says comes first
    assert subprocess.run(show, check=True, capture_output=True).stdout == b"0\n5\n"


def test_training_mends_a_checkpoint_that_was_cut_off(tmp_path):
    # torch.save writes zip archives
    recipe_data.zipped(tmp_path / "checkpoint_best.pt", {"data.pkl": bytes(range(256))})
    whole = (tmp_path / "checkpoint_best.pt").read_bytes()
    (tmp_path / "checkpoint_last.pt").write_bytes(whole[: len(whole) // 2])
    command = [sys.executable, LIB / "train.py", "--stats", tmp_path / "s", "--save-dir", tmp_path]
    subprocess.run([*command, "--", "true"], check=True, capture_output=True)
    assert (tmp_path / "checkpoint_last.pt").read_bytes() == whole
    assert subprocess.run([*command, "--", "false"], check=False).returncode == 1
    assert json.loads((tmp_path / "s").read_text())["runs"] == 2


def test_tatoeba_split_keeps_sentences_apart(tmp_path):
    script = REPOSITORY / "examples" / "tatoeba.de-en" / "split.py"
    rows = [f"english {i}\tdeutsch {i // 2}\tCC" for i in range(600)]
    recipe_data.zipped(tmp_path / "deu-eng.zip", {"deu.txt": "\n".join(rows).encode()})
    command = [sys.executable, script, tmp_path / "deu-eng.zip", tmp_path]
    subprocess.run(command, check=True)
    parts = {
        name: [(tmp_path / f"{name}.{lang}").read_text().splitlines() for lang in ("de", "en")]
        for name in ("train", "valid", "test")
    }
    assert sum(len(part[0]) for part in parts.values()) == 600
    assert all(60 <= len(parts[name][0]) < 70 for name in ("valid", "test"))
    for side in (0, 1):
        sentences = [set(part[side]) for part in parts.values()]
        assert not (
            sentences[0] & sentences[1] | sentences[0] & sentences[2] | sentences[1] & sentences[2]
        )


def test_results_table(tmp_path):
    result = {"recipe": "softmax", "test_set": "t", "bleu": 30, "chrf": 50, "greedy_bleu": 29}
    result.update(greedy_chrf=49, updates=10, seconds_per_update=0.5, train_seconds=6, seed=1)
    result.update(peak_memory_bytes=10**9, bleu_signature="b", chrf_signature="c")
    other = {
        **result,
        "recipe": "vmf",
        "seconds_per_update": 0.25,
        "table": "fasttext",
        "lenpen": 2.0,
        "temperature": 1.3,
    }
    (tmp_path / "r").write_text(json.dumps(result) + "\n" + json.dumps(other) + "\n")
    command = [sys.executable, LIB / "results_table.py", tmp_path / "r"]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    row = next(line for line in text.splitlines() if line.startswith("| vmf"))
    assert row.split(" | ")[1:5] == ["fasttext", "2", "1.3", "30.00"]
    assert row.split(" | ")[9:11] == ["0.250", "0.50"]
    language = {key: value for key, value in result.items() if "bleu" not in key}
    language.update(test_set="words", valid_ppl=64.25, test_ppl=60)
    (tmp_path / "r").write_text(json.dumps(language) + "\n")
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert "| softmax | - | 64.2 | 60.0 | 10 | 0.500 | 1.00 | 6 |" in text
    (tmp_path / "r").write_text('{"recipe": "softmax"}\n')
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 1 and "must be a JSON object as run.sh prints it" in done.stderr


def test_pretraining_is_checked_before_anything_is_made(tmp_path):
    def refusal(folder, *options, **more):
        message = error(run(folder, "pretrained", tmp_path / "o", *options, **more))
        assert not (tmp_path / "o" / "prep" / ".stamps").exists()
        return message

    assert "one dictionary and one embedding" in refusal("iwslt14.de-en")
    assert "one dictionary and one embedding" in refusal("multi30k.de-en", SUBWORD_METHOD="none")
    assert "updates, 1 or more, but is 1e3" in refusal("multi30k.de-en", PRETRAIN_UPDATES="1e3")
    (tmp_path / "a.en").write_text("one\n")
    text = f"{tmp_path}/a,{tmp_path}/b"
    assert f"{tmp_path}/b, but there is no" in refusal("multi30k.de-en", MONO_TEXT=text)
    found = refusal("multi30k.de-en", "--encoder-layers", "6", "--decoder-layers=3")
    sizes = "attention-heads=4, embed-dim=128, ffn-embed-dim=512, layers="
    assert f"must be the same, but they are {sizes}6 and {sizes}3; give both" in found
    found = refusal("multi30k.de-en", "--activation-fn", "gelu")
    assert "which knows no --activation-fn; leave it out" in found


def test_searches_are_checked_before_anything_is_made(tmp_path):
    def refusal(recipe, **more):
        message = error(run("multi30k.de-en", recipe, tmp_path / "o", **more))
        assert not (tmp_path / "o" / "prep" / ".stamps").exists()
        return message

    assert "ivfpq or shortlist, but is nearest" in refusal("best", SEARCH="nearest")
    assert "RECIPE is softmax and SEARCH is exact" in refusal("softmax", SEARCH="exact")
    options = {"GENERATE_OPTIONS": "--task continuous_translation"}
    assert "must not have --task where SEARCH" in refusal("best", SEARCH="exact", **options)


def test_words_of_several_lists_take_turns():
    sys.path.insert(0, str(REPOSITORY / "examples" / "large-vocabulary"))
    sys.path.insert(0, str(REPOSITORY / "examples" / "lib"))
    from dictionary import extend
    from words import interleave

    lists = [["the", "of", "de"], ["de", "la", "a b"], ["x"]]
    assert interleave(lists) == ["the", "de", "x", "of", "la"]
    counts = extend(Counter({"la": 2, "of": 5}), ["the", "of", "de"], 3)
    assert list(counts.items()) == [("of", 5), ("la", 2), ("the", 1)]
    counts = extend(Counter({"la": 2, "of": 5}), ["the", "of", "de"])  # all of them
    assert list(counts.items()) == [("of", 5), ("la", 2), ("the", 1), ("de", 1)]
    with pytest.raises(ValueError, match="together, 4, but is 5"):
        extend(Counter({"la": 2, "of": 5}), ["the", "of", "de"], 5)
    with pytest.raises(ValueError, match="words of the text, 2, but is 1"):
        extend(Counter({"la": 2, "of": 5}), ["the"], 1)


@pytest.mark.parametrize("recipe", ["softmax", "contrastive-frozen", "best", "best-frozen"])
def test_the_best_recipes_have_a_learning_rate_of_their_own(recipe):
    script = (
        f'. "{REPOSITORY}/examples/lib.sh"; SET=x TABLE_SOURCE=random TABLE_DIM=8 BEST_LR=$2; '
        'recipe_options "$1"; echo "${RECIPE_OPTIONS[@]}"'
    )
    for rate in ("0.5", ""):
        command = ["bash", "-euc", script, "bash", recipe, rate]
        found = subprocess.run(command, capture_output=True, text=True)
        assert found.returncode == 0, found.stderr
        own = rate and recipe.startswith("best")
        assert found.stdout.strip() == (f"--lr {rate}" if own else "")


@pytest.mark.parametrize(
    "extra, rate",
    [("", "--lr 3e-3 --lr 5e-3"), ("--lr 1e-3", "--lr 3e-3"), ("--lr=1", "--lr 3e-3")],
)
def test_a_learning_rate_that_is_given_is_taken_alone(extra, rate):
    script = (
        f'. "{REPOSITORY}/examples/lib.sh"; SOURCE_LANG=de TARGET_LANG=en TABLE=t ENCODER_VECTORS= '
        "DECODER_VECTORS= LANGUAGE_MODEL= CHECKPOINT=best BIN_DIR=bin TABLE_DIM=8; "
        '. "$LIB/small.sh"; EXTRA=($1); recipe_options best; '
        'train_once() { echo "${options[@]}"; }; train'
    )
    done = subprocess.run(
        ["bash", "-euc", script, "bash", extra], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    words = done.stdout.split()
    rates = [f"{a} {b}" for a, b in zip(words, words[1:]) if a == "--lr"]
    assert " ".join(rates) == rate  # and then what is given


@pytest.mark.parametrize(
    "tied, words, shared",
    [
        (1, "", "--share-all-embeddings --fix-norm"),
        (0, "", "--decoder-input encoder --table-dim 64"),
        (1, "none", "--share-decoder-input-output-embed --fix-norm"),
        (0, "none", "--table-dim 64"),
    ],
)
def test_a_learned_table_is_tied_or_of_its_own_dimension(tied, words, shared):
    script = (
        f'. "{REPOSITORY}/examples/lib.sh"; SOURCE_LANG=de TARGET_LANG=en TABLE= ENCODER_VECTORS= '
        f"DECODER_VECTORS= LANGUAGE_MODEL= CHECKPOINT=best BIN_DIR=bin TABLE_DIM=64 TIED={tied}; "
        f'SUBWORD_METHOD={words}; . "$LIB/small.sh"; EXTRA=(); recipe_options best; '
        'train_once() { echo "${options[@]}"; }; train'
    )
    done = subprocess.run(["bash", "-euc", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert f" --target-table learned {shared} --encoder-layers" in done.stdout


@pytest.mark.parametrize(
    "recipe, given, estimator",
    [
        ("best-frozen", "", "importance"),
        ("best-frozen", "posterior", "posterior"),
        ("contrastive-frozen", "", None),
        ("best", "posterior", None),
    ],
)
def test_the_estimator_of_best_frozen(recipe, given, estimator):
    script = (
        f'. "{REPOSITORY}/examples/lib.sh"; SOURCE_LANG=de TARGET_LANG=en; . "$LIB/small.sh"; '
        f'SAMPLING_ESTIMATOR={given}; recipe_options {recipe}; echo "${{CRITERION[@]}}"'
    )
    done = subprocess.run(["bash", "-euc", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    words = done.stdout.split()
    assert dict(zip(words, words[1:])).get("--sampling-estimator") == estimator


@pytest.mark.parametrize(
    "recipe, given, side",
    [
        ("best-frozen", "", "both"),
        ("best-frozen", "target", "target"),
        ("contrastive-frozen", "", "target"),
        ("contrastive-frozen", "both", "both"),
        ("cosine", "", "target"),
    ],
)
def test_the_text_that_a_frozen_table_comes_from(recipe, given, side):
    script = (
        f'. "{REPOSITORY}/examples/lib.sh"; SOURCE_LANG=de TARGET_LANG=en PREP_DIR=p; '
        f'TABLE_TEXT={given}; . "$LIB/small.sh"; recipe_defaults; recipe_options '
        f"{recipe}; lock_folder() {{ :; }}; unlock_folder() {{ :; }}; stage() {{ :; }}; "
        'find_data_dir() { :; }; prepare_inputs() { :; }; prepare_table() { echo "$1"; }; prepare'
    )
    done = subprocess.run(["bash", "-euc", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, f"{side}\n"), done.stderr


def test_the_text_of_a_table_is_checked(tmp_path):
    refused = error(run("multi30k.de-en", "best-frozen", tmp_path, TABLE_TEXT="source"))
    assert "TABLE_TEXT must be both or target, but is source" in refused


@pytest.mark.parametrize(
    "recipe, tied, fix_norm, reads_rows",
    [
        ("best", 1, "", True),
        ("best", 1, "1", True),
        ("best", 1, "0", False),
        ("best", 0, "", False),
        ("contrastive", 1, "", False),
        ("best-frozen", 1, "", False),
    ],
)
def test_best_reads_the_rows_that_its_embeddings_are_tied_to(recipe, tied, fix_norm, reads_rows):
    script = (
        f'. "{REPOSITORY}/examples/lib.sh"; SOURCE_LANG=de TARGET_LANG=en TABLE= ENCODER_VECTORS= '
        f"DECODER_VECTORS= LANGUAGE_MODEL= CHECKPOINT=best BIN_DIR=bin TABLE_DIM=64 TIED={tied}; "
        f'FIX_NORM={fix_norm}; . "$LIB/small.sh"; EXTRA=(); recipe_options {recipe}; '
        'train_once() { echo "${options[@]}"; }; train'
    )
    done = subprocess.run(["bash", "-euc", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert ("--fix-norm" in done.stdout.split()) == reads_rows


@pytest.mark.parametrize(
    "tied, words, vectors",
    [(1, "bpe", ","), (0, "bpe", "of-en,"), (1, "none", "of-de,"), (0, "none", "of-de,of-en")],
)
def test_embeddings_beside_a_table_of_its_own_begin_with_vectors(tied, words, vectors):
    script = (
        f'. "{REPOSITORY}/examples/lib.sh"; SOURCE_LANG=de TARGET_LANG=en TABLE=t ENCODER_VECTORS= '
        f"DECODER_VECTORS= INITIAL=table OUTPUT=learned VECTORS= TIED={tied} "
        f'SUBWORD_METHOD={words}; . "$LIB/small.sh"; '
        "export_inputs() { EXPORTED=of-$1; }; prepare_inputs; "
        'echo "$ENCODER_VECTORS,$DECODER_VECTORS"'
    )
    done = subprocess.run(["bash", "-euc", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, f"{vectors}\n"), done.stderr


def test_a_table_of_its_own_is_part_of_the_command():
    script = (
        f'export TIED=0 FIX_NORM=0; . "{REPOSITORY}/examples/lib.sh"; SET=demo RECIPE=best; '
        "EXTRA=(); recipe_command"
    )
    done = subprocess.run(["bash", "-euc", script], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("TIED=0 FIX_NORM=0 ")


def test_whether_a_table_is_tied_is_checked(tmp_path):
    assert "TIED must be 1 or 0, but is no" in error(run("demo", "best", tmp_path, TIED="no"))
    for recipe in ("softmax", "best-frozen"):
        refused = error(run("multi30k.de-en", recipe, tmp_path, TIED="0"))
        assert f"as with RECIPE {recipe} of multi30k.de-en, but is 0; leave it out" in refused
    refused = error(run("multi30k.de-en", "pretrained", tmp_path, TIED="0"))
    assert "TIED must be 1 with RECIPE pretrained" in refused
    refused = error(run("wikitext-2", "best", tmp_path, TIED="0"))
    assert "TIED must be 1 for a language model" in refused


def test_whose_embeddings_may_be_read_as_they_are_is_checked(tmp_path):
    refused = error(run("demo", "best", tmp_path, FIX_NORM="no"))
    assert "FIX_NORM must be 1 or 0, but is no" in refused
    for recipe in ("softmax", "contrastive", "best-frozen", "pretrained"):
        refused = error(run("multi30k.de-en", recipe, tmp_path, FIX_NORM="0"))
        assert f"but RECIPE is {recipe} and TIED is 1; leave it out" in refused
    refused = error(run("multi30k.de-en", "best", tmp_path, FIX_NORM="1", TIED="0"))
    assert "but RECIPE is best and TIED is 0; leave it out" in refused
    refused = error(run("wikitext-2", "best", tmp_path, FIX_NORM="0"))
    assert "FIX_NORM is for translation models, but is 0; leave it out" in refused


def test_a_set_that_shares_no_embeddings_has_no_table_to_untie(tmp_path):
    script = (
        f'. "{REPOSITORY}/examples/lib.sh"; SET=x SOURCE_LANG=de TARGET_LANG=en; '
        '. "$LIB/small.sh"; SOFTMAX_OPTIONS=(); recipe_main best "$1"'
    )
    command = ["bash", "-euc", script, "-", tmp_path / "out"]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, "TIED": "0"}
    )
    assert "as with RECIPE best of x, but is 0; leave it out" in error(done)
    assert not (tmp_path / "out").exists()
