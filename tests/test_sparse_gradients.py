"""--sparse-gradients: rows of the batch alone have gradients; and what is refused."""

import re
from argparse import Namespace

import pytest
import torch
from factory import FakeTask, make_batch, make_criterion, make_dictionary, make_model
from fairseq.models import ARCH_CONFIG_REGISTRY, ARCH_MODEL_REGISTRY


def learned(dictionary, arch="continuous_transformer_tiny", **options):
    defaults = {"criterion": "contrastive", "target_table": "learned", "dropout": 0.0}
    args = Namespace(arch=arch, **{**defaults, **options})
    ARCH_CONFIG_REGISTRY[arch](args)
    torch.manual_seed(1)
    return ARCH_MODEL_REGISTRY[arch].build_model(args, FakeTask(dictionary))


def gradients(model, dictionary, name="contrastive", **options):
    criterion = make_criterion(name, dictionary, **options)
    torch.manual_seed(2)  # of the rows that are drawn
    criterion(model, make_batch(dictionary))[0].backward()
    return {name: parameter.grad for name, parameter in model.named_parameters()}


CASES = {
    "tied": {"share_decoder_input_output_embed": True},
    "all": {"share_all_embeddings": True},
    "untied": {},
    "table": {"decoder_input": "table"},
    "encoder": {"decoder_input": "encoder"},
    "lstm": {"arch": "continuous_lstm"},
    "stop": {"stop_gradient_targets": True, "share_decoder_input_output_embed": True},
}


@pytest.mark.parametrize("case", sorted(CASES))
def test_gradients_are_those_of_dense_ones_and_sparse_for_words(case):
    dictionary, options = make_dictionary(words=60), CASES[case]
    dense, sparse = (
        gradients(
            learned(dictionary, sparse_gradients=flag, **options), dictionary, sampled_negatives=5
        )
        for flag in (False, True)
    )
    assert dense.keys() == sparse.keys()
    for name, gradient in sparse.items():
        of_words = "embed_tokens.weight" in name or name.endswith("table.weight")
        assert gradient.is_sparse == of_words, name
        found = gradient.to_dense() if gradient.is_sparse else gradient
        torch.testing.assert_close(found, dense[name], rtol=1e-4, atol=1e-6, msg=name)
        if of_words:
            assert gradient.coalesce().indices().size(1) < len(dictionary)


def test_input_embeddings_of_a_frozen_table(tmp_path):
    dictionary = make_dictionary()
    model = make_model(tmp_path, dictionary, sparse_gradients=True)
    found = gradients(model, dictionary, "cosine")
    names = sorted(name for name, gradient in found.items() if gradient.is_sparse)
    assert names == ["decoder.embed_tokens.weight", "encoder.embed_tokens.weight"]


REFUSED = [
    ({"optimizer": "adam"}, "--optimizer is adam; give --optimizer row_adam"),
    ({"table_ema": 0.9, "share_decoder_input_output_embed": True}, "--table-ema 0.9 moves every"),
    ({"fp16": True}, "give --memory-efficient-fp16"),
    ({"bf16": True}, "give --memory-efficient-bf16"),
    ({"amp": True}, "--amp looks for overflows in dense gradients"),
    ({"ddp_backend": "legacy_ddp"}, "give --ddp-backend pytorch_ddp"),
]


@pytest.mark.parametrize("options, message", REFUSED)
def test_what_does_not_go_together(options, message):
    with pytest.raises(ValueError, match=message):
        learned(make_dictionary(), sparse_gradients=True, **options)


def test_a_loss_over_all_rows_is_refused():
    dictionary = make_dictionary()
    model = learned(dictionary, sparse_gradients=True, criterion="hybrid")
    criterion = make_criterion("contrastive", dictionary)
    table = model.decoder.continuous_output.table
    with pytest.raises(ValueError, match="the loss reads all rows .* take a loss over some rows"):
        table.rows()
    criterion.eval()
    with torch.no_grad():
        assert criterion(model.eval(), make_batch(dictionary))[0] > 0


# ---- fairseq-train ------------------------------------------------------------------------------

OURS = "--target-table learned --share-decoder-input-output-embed --criterion contrastive "
OURS += "--optimizer row_adam --sparse-gradients --clip-norm 1.0 --adam-betas (0.9,0.98)"


def test_training_goes_on_where_it_was_interrupted(train, tmp_path):
    options = OURS.split()
    train(tmp_path / "whole", *options, updates=4, total=4)
    train(tmp_path / "part", *options, updates=2, total=4)
    train(tmp_path / "part", *options, updates=4, total=4)
    states = [
        torch.load(tmp_path / name / "checkpoint_last.pt", weights_only=False)["model"]
        for name in ("whole", "part")
    ]
    for name, value in states[0].items():
        torch.testing.assert_close(states[1][name], value, msg=name)


def test_the_norm_of_the_gradient_is_that_of_dense_ones(train, tmp_path):
    norms = []
    for name, flags in (("sparse", OURS), ("dense", OURS.replace("--sparse-gradients ", ""))):
        output = train(tmp_path / name, *flags.split(), "--log-interval", "1", updates=2, total=9)
        norms.append([float(value) for value in re.findall(r"gnorm=([0-9.]+)", output)])
    assert len(norms[0]) == 2 and norms[0] == pytest.approx(norms[1], rel=1e-3)
