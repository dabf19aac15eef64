"""Learned target tables: ties, checkpoints, decoding, refusals, collapse and what prevents it."""

import logging

import pytest
import torch
from factory import (
    FakeTask,
    make_batch,
    make_criterion,
    make_dictionary,
    make_learned_model,
    make_rows,
    make_table,
)
from fairseq.models import ARCH_MODEL_REGISTRY

from fairseq_contout.learned_table import LearnedTable
from fairseq_contout.target_table import save_table


@pytest.fixture
def dictionary():
    return make_dictionary()


def table_of(model):
    return model.decoder.continuous_output.table


def table_file(tmp_path, dictionary, dim):
    path, rows = tmp_path / "start.safetensors", make_rows(dictionary, dim)
    save_table(path, rows, dictionary, source="random", origins={"random": len(rows)})
    return str(path), rows


def test_rows_are_directions_and_get_a_gradient(dictionary):
    model, _ = make_learned_model(dictionary)
    table = table_of(model)
    assert table.learned and table.dim == 64  # as the decoder
    with torch.no_grad():
        table.weight.mul_(3)
    norms = table.rows().norm(dim=1)
    torch.testing.assert_close(norms, torch.ones_like(norms))
    torch.testing.assert_close(table.rows(torch.tensor([5, 7])), table.rows()[[5, 7]])
    criterion = make_criterion("contrastive", dictionary)
    criterion(model, make_batch(dictionary))[0].backward()
    along = (table.weight.grad * table.rows()).sum(dim=1).abs().max()
    assert table.weight.grad.norm() > 0 and along < 1e-5  # only directions count


@pytest.mark.parametrize("flag", ["share_decoder_input_output_embed", "share_all_embeddings"])
@pytest.mark.parametrize("arch", ["continuous_transformer_tiny", "continuous_lstm"])
def test_tied_by_fairseqs_own_flags(flag, arch, tmp_path, dictionary):
    sizes = {"decoder_embed_dim": 64, "encoder_embed_dim": 64}
    if arch == "continuous_lstm":
        sizes["decoder_out_embed_dim"] = 64
    path, rows = table_file(tmp_path, dictionary, 64)
    model, _ = make_learned_model(dictionary, arch, table_init=path, **{flag: True}, **sizes)
    assert table_of(model).weight is model.decoder.embed_tokens.weight
    shared = model.encoder.embed_tokens.weight is model.decoder.embed_tokens.weight
    assert shared == (flag == "share_all_embeddings")
    torch.testing.assert_close(table_of(model).weight.detach(), rows)
    copy, _ = make_learned_model(dictionary, arch, **{flag: True}, **sizes)
    copy.load_state_dict(model.state_dict(), strict=True)
    assert table_of(copy).weight is copy.decoder.embed_tokens.weight
    torch.testing.assert_close(table_of(copy).rows(), table_of(model).rows())


def test_dimension_below_the_models_and_a_projected_input(dictionary):
    model, args = make_learned_model(dictionary, table_dim=24, decoder_input="table")
    assert table_of(model).dim == 24 and args.built_table == ["learned", 24]
    names = [n for n, p in model.named_parameters() if p is table_of(model).weight]
    assert names == ["decoder.continuous_output.table.weight"]
    make_criterion("cosine", dictionary)(model, make_batch(dictionary))[0].backward()
    assert table_of(model).weight.grad.norm() > 0


def test_a_checkpoint_needs_no_file(tmp_path, dictionary):
    path, _ = table_file(tmp_path, dictionary, 24)
    model, args = make_learned_model(dictionary, table_init=path)
    (tmp_path / "start.safetensors").unlink()
    again = ARCH_MODEL_REGISTRY[args.arch].build_model(args, FakeTask(dictionary))
    again.load_state_dict(model.state_dict(), strict=True)
    torch.testing.assert_close(table_of(again).rows(), table_of(model).rows())


@pytest.mark.parametrize("score", ["dot", "cosine", "l2", "power_spherical"])
def test_the_sparse_path_equals_the_dense_one(score):
    frozen, dictionary = make_table(score)
    table = LearnedTable(torch.nn.Parameter(5 * frozen.weight), dictionary, score)
    hidden = torch.randn(6, 8, generator=torch.Generator().manual_seed(3))
    dense = table.log_probs(hidden)
    torch.testing.assert_close(dense, frozen.log_probs(hidden))
    sparse = table.candidates(hidden, 7)
    torch.testing.assert_close(sparse.log_probs, dense.gather(1, sparse.indices))
    index = torch.arange(4, 10)
    torch.testing.assert_close(table.log_prob_of(hidden, index), dense[range(6), index])
    half = LearnedTable(torch.nn.Parameter(5 * frozen.weight.half()), dictionary, score)
    assert half.log_probs(hidden.half()).dtype == torch.float32
    torch.testing.assert_close(half.log_probs(hidden.half()), dense, atol=0.05, rtol=0.01)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"table_dim": 32, "share_all_embeddings": True}, "has their dimension, 64.*asks for 32"),
        ({"table_dim": 0}, "--table-dim must be 1 or more, but is 0"),
        ({"table_init": "no.safetensors"}, "no.safetensors: no such file"),
        ({"table_ema": 1.0, "decoder_input": "table"}, "--table-ema must be 0 or more and less"),
        ({"table_ema": 0.9}, "--table-ema a table learns as the decoder's input alone"),
        ({"stop_gradient_targets": True}, "--stop-gradient-targets a table learns as the dec"),
        ({"table_ema": 0.0}, "--table-ema a table learns as the decoder's input alone"),
        (
            {"find_unused_parameters": True, "distributed_world_size": 2},
            "--find-unused-parameters takes a learned table .* leave the flag out",
        ),
        (
            {"target_table": "x.safetensors", "table_ema": 0.0},
            "--table-ema 0.0 shapes a learned table, but --target-table is x.safetensors",
        ),
        (
            {"share_all_embeddings": True, "decoder_input": "encoder"},
            "so does --decoder-input encoder; give one of them",
        ),
        (
            {"target_table": "x.safetensors", "table_dim": 9},
            "--table-dim 9 shapes a learned table, but --target-table is x.safetensors",
        ),
        (
            {"target_table": "x.safetensors", "share_decoder_input_output_embed": True},
            "a table from a file is frozen; give --target-table learned",
        ),
    ],
)
def test_options_that_contradict(options, message, dictionary):
    with pytest.raises(ValueError, match=message):
        make_learned_model(dictionary, **options)


def test_dimensions_that_contradict(tmp_path, dictionary):
    path, _ = table_file(tmp_path, dictionary, 24)
    with pytest.raises(ValueError, match="--table-dim is 9, but the rows of .* dimension 24"):
        make_learned_model(dictionary, table_init=path, table_dim=9)
    with pytest.raises(ValueError, match="--table-init or --table-dim asks for 24"):
        make_learned_model(dictionary, table_init=path, share_decoder_input_output_embed=True)


@pytest.mark.parametrize("option", [{"stop_gradient_targets": True}, {"table_ema": 0.5}])
def test_targets_without_gradient(option, dictionary):
    model, _ = make_learned_model(dictionary, share_decoder_input_output_embed=True, **option)
    table, criterion = table_of(model), make_criterion("cosine", dictionary)
    hidden, target = torch.randn(4, 64, requires_grad=True), torch.tensor([5, 6, 7, 5])
    criterion.token_losses(hidden, target, table).sum().backward()
    assert hidden.grad.norm() > 0 and table.weight.grad is None
    criterion(model, make_batch(dictionary))[0].backward()
    assert table.weight.grad.norm() > 0  # as the decoder's input


def test_the_average_follows_in_full_precision(dictionary):
    model, args = make_learned_model(dictionary, decoder_input="table", table_ema=0.75)
    table, before = table_of(model), table_of(model).weight.detach().clone()
    with torch.no_grad():
        table.weight.add_(1.0)
    for _ in range(3):  # what fairseq calls before each batch of an update
        model.set_num_updates(1)
    torch.testing.assert_close(table.average, before + 0.25)
    torch.testing.assert_close(table.rows(), torch.nn.functional.normalize(before + 0.25))
    copy = ARCH_MODEL_REGISTRY[args.arch].build_model(args, FakeTask(dictionary))
    copy.load_state_dict(model.half().state_dict(), strict=True)
    assert table.average.dtype == torch.float32 and table.weight.dtype == torch.float16
    torch.testing.assert_close(table_of(copy).rows(), table.rows())


#: criterion and options under which a learned table keeps its spread
GUARDS = {
    "contrastive": ("contrastive", {}),
    "contrastive-term": ("cosine", {"contrastive_weight": 1.0}),
    "dispersion": ("cosine", {"dispersion_weight": 1.0}),
    "dispersion-rows": ("cosine", {"dispersion_weight": 1.0, "dispersion_rows": 10}),
    "stop-gradient": ("cosine", {}, {"stop_gradient_targets": True, "decoder_input": "table"}),
    "ema": ("cosine", {}, {"table_ema": 0.9, "decoder_input": "table"}),
    "learning-rate": ("cosine", {}, {"table_lr_scale": 0.01}),  # not for ever
    # several at once
    "ema and dispersion": (
        "cosine",
        {"dispersion_weight": 1.0},
        {"table_ema": 0.9, "decoder_input": "table"},
    ),
    "stop-gradient and contrastive-term": (
        "cosine",
        {"contrastive_weight": 1.0},
        {"stop_gradient_targets": True, "decoder_input": "table"},
    ),
    "dispersion, contrastive-term and learning-rate": (
        "cosine",
        {"dispersion_weight": 1.0, "contrastive_weight": 1.0},
        {"table_lr_scale": 0.1},
    ),
    # as the warning has it: as many as there are rows
    "dispersion of the warning": ("cosine", {"dispersion_weight": 24.0}),
}


def train(dictionary, name, options, model_options=None, updates=300):
    """Train a tiny model on random sentences; return what a validation logs."""
    model, _ = make_learned_model(dictionary, criterion=name, table_dim=16, **(model_options or {}))
    if name == "contrastive" or "contrastive_weight" in options:
        options = {"sampled_negatives": 16, **options}
    criterion = make_criterion(name, dictionary, **options)
    parameters = [*model.parameters(), *criterion.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=3e-3)
    for update in range(updates):
        sample = make_batch(dictionary, seed=update)
        model.set_num_updates(update)
        loss, size, _ = criterion(model, sample)
        optimizer.zero_grad()
        (loss / size).backward()
        optimizer.step()
    model.eval()
    criterion.eval()
    return criterion(model, make_batch(dictionary, seed=-1))[2]


@pytest.mark.parametrize("model_options", [{}, {"decoder_input": "table"}])
def test_cosine_alone_collapses_and_a_warning_names_the_remedy(model_options, dictionary, caplog):
    with caplog.at_level(logging.WARNING):
        log = train(dictionary, "cosine", {}, model_options)
    assert log["table_cosine"] > 0.7 and log["token_cosine"] > 0.7 and log["monitored"] == 1
    assert "target table is collapsing" in caplog.text
    assert (
        "add --contrastive-weight 1, --stop-gradient-targets or --dispersion-weight " in caplog.text
    )


@pytest.mark.parametrize("guard", GUARDS)
def test_every_guard_prevents_the_collapse(guard, dictionary, caplog):
    with caplog.at_level(logging.WARNING):
        log = train(dictionary, *GUARDS[guard])
    assert log["table_cosine"] < 0.2 and log["token_cosine"] < 0.3 and log["table_rank"] > 8
    assert "collapsing" not in caplog.text


@pytest.mark.parametrize("guard", [{"stop_gradient_targets": True}, {"table_ema": 0.5}])
def test_guards_can_be_combined(guard, dictionary):
    """The dispersion moves the parameter, also where rows are targets without gradient."""
    model, _ = make_learned_model(dictionary, decoder_input="table", **guard)
    table = table_of(model)
    criterion = make_criterion("cosine", dictionary, dispersion_weight=1.0)
    hidden, target = torch.randn(4, 64), torch.tensor([5, 6, 7, 5])
    losses = criterion.token_losses(hidden, target, table)
    assert not losses.requires_grad
    (losses + criterion._dispersion(4, table, 4)).sum().backward()
    assert table.weight.grad.norm() > 0


def test_a_frozen_table_is_not_monitored(tmp_path, dictionary):
    path, _ = table_file(tmp_path, dictionary, 8)
    model, _ = make_learned_model(dictionary, target_table=path)
    model.eval()
    criterion = make_criterion("contrastive", dictionary).eval()
    assert "monitored" not in criterion(model, make_batch(dictionary))[2]
    assert not any(p is table_of(model).weight for p in model.parameters())
