"""fairseq's other commands and its Python interface, on both decoding paths."""

import math

import cli
import pytest
import torch

DENSE = ("--task", "translation")
SPARSE = ("--task", "continuous_translation", "--knn", "10")


def generate(corpus, checkpoint, *options):
    return cli.translations(cli.call("generate", corpus.data, "--path", checkpoint, *options))


def test_reference_scores_are_the_log_probabilities_of_the_model(corpus, trained):
    from fairseq import checkpoint_utils

    (model,), _, task = checkpoint_utils.load_model_ensemble_and_task(
        [str(trained("cosine"))], arg_overrides={"data": str(corpus.data)}
    )
    task.load_dataset("test")
    model.eval()
    scored = generate(corpus, trained("cosine"), *DENSE, "--score-reference")
    table = model.decoder.continuous_output.table
    for index in range(5):
        sample = task.dataset("test").collater([task.dataset("test")[index]])
        with torch.no_grad():
            hidden = model(**sample["net_input"])[0][0]
        cosine = torch.nn.functional.normalize(hidden, dim=1) @ table.weight.t()
        logits = (table.scale * cosine).masked_fill(~table.emittable, -math.inf)
        expected = torch.log_softmax(logits, dim=1).gather(1, sample["target"][0].unsqueeze(1))
        identity = int(sample["id"])
        expected = (expected.flatten() / math.log(2)).tolist()
        assert scored[identity][0].positional == pytest.approx(expected, abs=2e-3)


def test_interactive_translates_what_is_typed(corpus, trained):
    source = (corpus.raw / "test.src").read_text().splitlines()[:3]
    for task in (DENSE, SPARSE):
        output = cli.call(
            "interactive", corpus.data, "--path", trained("cosine"), *task, "--beam", 5,
            "-s", "src", "-t", "tgt", stdin="\n".join(source) + "\n",
        )  # fmt: skip
        best = cli.translations(output)
        right = sum(best[i][0].text == line.split(" ", 1)[1] for i, line in enumerate(source))
        assert right >= 2


def test_bleu_in_training_uses_either_path(corpus, train, tmp_path):
    for number, task in enumerate((DENSE, SPARSE)):
        output = train(
            tmp_path / str(number), *task, "--criterion", "cosine", "--eval-bleu",
            "--eval-bleu-args", '{"beam": 2}', "--validate-interval", 1, updates=30,
        )  # fmt: skip
        assert "| bleu " in output
        # meters of --eval-bleu hold numpy arrays: the checkpoint must load all the same
        assert len(generate(corpus, tmp_path / str(number) / "checkpoint_last.pt", *task)) == 60


def test_hub_interface_with_subwords_and_tokeniser(corpus, trained):
    from fairseq_contout.models import ContinuousLSTMModel, ContinuousTransformerModel

    line = (corpus.raw / "test.src").read_text().splitlines()[0]
    expected = line.split(" ", 1)[1].replace("@@ ", "")
    plain = line.replace("@@ ", "")
    for kind, name in ((ContinuousTransformerModel, "cosine"), (ContinuousLSTMModel, "lstm")):
        checkpoint = trained(name)
        for task in ("translation", "continuous_translation"):
            hub = kind.from_pretrained(
                str(checkpoint.parent), checkpoint.name, str(corpus.data), task=task, knn=10,
                bpe="subword_nmt", bpe_codes=str(corpus.codes), tokenizer="moses",
            )  # fmt: skip
            translation = hub.translate(plain)
            # the tokeniser joins the full stop to the word before it
            assert translation.replace(".", " .").split() == expected.split()
