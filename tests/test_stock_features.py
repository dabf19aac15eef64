"""What fairseq's commands and interfaces offer works on our models, on both paths."""

import re
import shutil

import cli
import pytest
import torch
from decoding import Decoder

from fairseq_contout.models.lstm import ContinuousLSTMModel
from fairseq_contout.models.transformer import ContinuousTransformerModel
from fairseq_contout.tasks.continuous_translation import ContinuousTranslationTask

PATHS = {"dense": ("--task", "translation"), "sparse": ("--task", "continuous_translation")}
KNN = ("--knn", 10)


def path_options(path):
    return PATHS[path] + KNN * (path == "sparse")


def generate(corpus, path, checkpoint, *options):
    return cli.call(
        "generate", corpus.data, "--path", checkpoint, *path_options(path), "--beam", 5, *options
    )


def assert_same_translations(one, other):
    assert one.keys() == other.keys()
    for sentence, left in one.items():
        right = other[sentence]
        assert [t.text for t in left] == [t.text for t in right]
        for a, b in zip(left, right):
            assert a.score == pytest.approx(b.score, abs=1e-3)
            assert a.positional == pytest.approx(b.positional, abs=1e-3)


@pytest.mark.parametrize("model", ["vmf", "lstm"])
def test_options_of_the_command_line_reach_both_paths(model, corpus, trained):
    options = [
        "--nbest", 3, "--lenpen", 0.5, "--min-len", 3, "--max-len-a", 0.5, "--max-len-b", 4,
        "--no-repeat-ngram-size", 2, "--unkpen", 1, "--temperature", 3, "--prefix-size", 1,
        "--model-overrides", "{'scale': 9}",
    ]  # fmt: skip
    dense, sparse = (generate(corpus, path, trained(model), *options) for path in PATHS)
    found = cli.translations(dense)
    assert all(len(best) == 3 for best in found.values())
    assert_same_translations(found, cli.translations(sparse))
    first = {sentence: text.split()[0] for sentence, text in cli.references(dense).items()}
    assert all(best[2].text.split()[0] == first[s] for s, best in found.items())


@pytest.mark.parametrize("path", PATHS)
def test_interactive(path, corpus, trained):
    generated = generate(corpus, path, trained("cosine"))
    lines = (corpus.raw / "test.src").read_text().splitlines()[:5]
    output = cli.call(
        "interactive", corpus.data, "--path", trained("cosine"), *path_options(path), "--beam", 5,
        "--buffer-size", 4, "--batch-size", 4, stdin="".join(line + "\n" for line in lines),
    )  # fmt: skip
    expected = cli.translations(generated)
    assert_same_translations(cli.translations(output), {i: expected[i] for i in range(5)})


@pytest.mark.parametrize("path", PATHS)
def test_score_reference(path, corpus, trained):
    output = generate(corpus, path, trained("power_spherical"), "--score-reference")
    decoder = Decoder(corpus.data, trained("power_spherical"))
    ids = decoder.batch["id"].tolist()
    targets = [t[t.ne(decoder.dictionary.pad())] for t in decoder.batch["target"]]
    scored = cli.translations(output)
    for sentence, target, hidden in zip(ids, targets, decoder.predictions(targets)):
        lprobs = decoder.table.log_probs(hidden).gather(1, target.unsqueeze(1)).squeeze(1)
        expected = lprobs / torch.log(torch.tensor(2.0))
        assert scored[sentence][0].positional == pytest.approx(expected.tolist(), abs=1e-3)
        assert scored[sentence][0].score == pytest.approx(expected.mean().item(), abs=1e-3)


@pytest.mark.parametrize("path", PATHS)
def test_bleu_in_training(path, corpus, train, tmp_path):
    options = ["--criterion", "cosine", *path_options(path)]
    options += ["--eval-bleu", "--eval-bleu-args", '{"beam": 2, "max_len_b": 8}']
    options += ["--best-checkpoint-metric", "bleu", "--maximize-best-checkpoint-metric"]
    output = train(tmp_path, *options, "--save-interval-updates", 4, updates=4)
    assert re.search(r"valid on 'valid' subset .* bleu \d", output)
    assert (tmp_path / "checkpoint_best.pt").is_file()
    # meters of numpy numbers are in the checkpoint now: it must load, to decode and to go on
    more = train(tmp_path, *options, "--save-interval-updates", 4, updates=6)
    assert "Loaded checkpoint" in more and "@ 4 updates" in more
    found = cli.translations(generate(corpus, path, tmp_path / "checkpoint_best.pt"))
    assert len(found) == 60


def test_sampling_from_the_command_line(corpus, trained):
    def sample(path, seed, *options):
        output = generate(
            corpus, path, trained("cosine"), "--sampling", "--nbest", 5, "--seed", seed,
            "--model-overrides", "{'scale': 3}", *options,
        )  # fmt: skip
        return cli.translations(output)

    assert_same_translations(sample("dense", 1), sample("dense", 1))
    assert sample("dense", 1) != sample("dense", 2)
    top = "--sampling-topk", 4
    assert_same_translations(sample("dense", 1, *top), sample("sparse", 1, *top))


def test_ensemble_of_a_transformer_and_an_lstm(corpus, trained):
    both = f"{trained('vmf')}:{trained('lstm')}"
    output = generate(corpus, "dense", both)
    assert cli.token_accuracy(output) >= 0.95
    with pytest.raises(ValueError, match="ensemble .* --task translation"):
        generate(corpus, "sparse", both)


def test_refused_options_say_so_on_the_command_line(corpus, trained):
    for options, message in (
        (["--diverse-beam-groups", 5], "--diverse-beam-groups"),
        (["--constraints"], "--constraints"),
        (["--sampling", "--nbest", 5], "--sampling without --sampling-topk"),
        (["--lm-path", trained("cosine")], "--lm-path"),
        (["--knn", 9], "--knn must be between"),
    ):
        with pytest.raises(ValueError, match=message):
            generate(corpus, "sparse", trained("cosine"), *options)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("name", ["cosine", "lstm"])
def test_python_interface_with_subwords_and_tokenizer(name, path, corpus, trained):
    kind = ContinuousLSTMModel if name == "lstm" else ContinuousTransformerModel
    # a task by its name alone would be ignored by fairseq
    task = {"_name": "continuous_translation", "knn": 10, "data": str(corpus.data)}
    model = kind.from_pretrained(
        str(trained(name).parent), "checkpoint_last.pt", str(corpus.data), bpe="subword_nmt",
        bpe_codes=str(corpus.codes), tokenizer="moses", source_lang="src", target_lang="tgt",
        **({"task": task} if path == "sparse" else {}),
    ).eval()  # fmt: skip
    assert isinstance(model.task, ContinuousTranslationTask) == (path == "sparse")
    # "kilu" is two subwords; the full stop is a token of its own
    assert model.src_dict.string(model.encode("x kilu me.")) == "x ki@@ lu me ."
    assert model.translate("x kilu me.") == "kilu me."
    assert model.translate(["x dobalu po.", "x me po ki."], beam=3) == ["dobalu po.", "me po ki."]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("model", ["cosine", "lstm"])
def test_replace_unk_by_attention(model, path, corpus, trained, tmp_path):
    for language in ("src", "tgt"):
        shutil.copy(corpus.data / f"dict.{language}.txt", tmp_path)
    # words that no dictionary knows, and a model that is made to emit three <unk>
    sources = ("x qa qe qi .", "x qo qu .")
    (tmp_path / "test.src-tgt.src").write_text("\n".join(sources) + "\n")
    (tmp_path / "test.src-tgt.tgt").write_text("qa qe qi .\nqo qu .\n")
    options = [
        tmp_path, "--path", trained(model), *path_options(path), "--dataset-impl", "raw",
        "--source-lang", "src", "--target-lang", "tgt", "--beam", 2, "--unkpen", -99,
        "--max-len-b", 3, "--replace-unk",
    ]  # fmt: skip
    output = cli.call("generate", *options, "--print-alignment", "hard")
    for sentence, source in enumerate(sources):
        best = cli.translations(output)[sentence][0]
        pairs = [tuple(map(int, pair.split("-"))) for pair in best.alignment.split()]
        assert [target for _, target in pairs] == [0, 1, 2]
        assert best.text.split() == [source.split()[position] for position, _ in pairs]
    with pytest.raises(ValueError, match="--replace-unk needs .* --print-alignment hard"):
        cli.call("generate", *options)
