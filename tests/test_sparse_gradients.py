"""--sparse-gradients and the optimizer row_adam: rows of the batch alone, and what is refused."""

import math
import re
from argparse import Namespace

import pytest
import torch
from factory import FakeTask, make_batch, make_criterion, make_dictionary, make_model
from fairseq.models import ARCH_CONFIG_REGISTRY, ARCH_MODEL_REGISTRY
from fairseq.optim import OPTIMIZER_REGISTRY, build_optimizer
from fairseq.optim.adam import Adam

from fairseq_contout.optim import RowAdam

OPTIONS = {"lr": 0.05, "betas": (0.9, 0.98), "eps": 1e-6, "weight_decay": 0.01}


def optimizer_of(parameters, name="row_adam", **options):
    defaults = OPTIMIZER_REGISTRY[name].__dataclass.__dataclass_fields__
    values = {field: entry.default for field, entry in defaults.items() if field != "_name"}
    values.update(lr=[0.01], adam_betas="(0.9, 0.98)", tpu=False, optimizer=name, **options)
    return build_optimizer(Namespace(**values), list(parameters))


def lookup(weight, index, sparse):
    return torch.nn.functional.embedding(index, weight, sparse=sparse)


def loss_of(weight, index, sparse):
    rows = lookup(weight, index, sparse)
    return (rows.sin() * torch.arange(1.0, 1 + rows.size(1))).sum()


def test_equals_adam_where_every_row_has_a_gradient():
    start = torch.randn(6, 3)
    weights = [start.clone().requires_grad_() for _ in range(2)]
    optimizers = [Adam([weights[0]], **OPTIONS), RowAdam([weights[1]], **OPTIONS)]
    for step in range(7):
        generator = torch.Generator().manual_seed(step)
        index = torch.cat((torch.arange(6), torch.randint(6, (9,), generator=generator)))
        for weight, optimizer, sparse in zip(weights, optimizers, (False, True)):
            optimizer.zero_grad()
            loss_of(weight, index, sparse).backward()
            assert weight.grad.is_sparse == sparse
            optimizer.step()
    torch.testing.assert_close(weights[1], weights[0], rtol=1e-5, atol=1e-6)


def test_a_row_takes_the_steps_of_an_adam_of_its_own():
    start = torch.randn(5, 3)
    weight = start.clone().requires_grad_()
    optimizer = RowAdam([weight], **OPTIONS)
    alone = [row.clone().unsqueeze(0).requires_grad_() for row in start]
    own = [Adam([row], **OPTIONS) for row in alone]
    for step in range(12):
        index = torch.tensor([[0, 1, 1], [2, 0, 0], [3, 3, 1]][step % 3])
        optimizer.zero_grad()
        loss_of(weight, index, True).backward()
        optimizer.step()
        for row in set(index.tolist()):
            own[row].zero_grad()
            count = int(index.eq(row).sum())
            loss_of(alone[row], torch.zeros(count, dtype=torch.long), False).backward()
            own[row].step()
    expected = torch.cat([row.detach() for row in alone])
    torch.testing.assert_close(weight.detach(), expected, rtol=1e-5, atol=1e-6)
    assert weight[4].equal(start[4]) and not weight[3].equal(start[3])
    assert optimizer.state[weight]["row_steps"].tolist() == [8, 8, 4, 4, 0]


def test_one_second_moment_a_row():
    weight = torch.zeros(4, 3, requires_grad=True)
    options = {**OPTIONS, "weight_decay": 0.0, "eps": 0.0}
    optimizer = RowAdam([weight], row_second_moment=True, **options)
    (lookup(weight, torch.tensor([2]), True) * torch.tensor([1.0, 2.0, 2.0])).sum().backward()
    optimizer.step()
    # the first step: m / √v = g / root mean square of g
    expected = -0.05 * torch.tensor([1.0, 2.0, 2.0]) / math.sqrt(3)
    torch.testing.assert_close(weight[2].detach(), expected)
    assert optimizer.state[weight]["exp_avg_sq"].shape == (4, 1)


def test_dense_parameters_take_the_step_of_adam():
    start = torch.randn(4, 3)
    weights = [start.clone().requires_grad_() for _ in range(2)]
    for weight, kind in zip(weights, (Adam, RowAdam)):
        optimizer = kind([weight], **OPTIONS)
        for step in range(3):
            optimizer.zero_grad()
            loss_of(weight, torch.arange(step + 1), False).backward()
            optimizer.step()
    assert weights[0].equal(weights[1])


def test_a_state_goes_on_after_a_checkpoint():
    def train(weight, optimizer, steps):
        for step in steps:
            optimizer.zero_grad()
            loss_of(weight, torch.tensor([step % 3, 1]), True).backward()
            optimizer.step()

    start = torch.randn(4, 3)
    whole, part = (start.clone().requires_grad_() for _ in range(2))
    train(whole, optimizer_of([whole]), range(6))
    first = optimizer_of([part])
    train(part, first, range(3))
    second = optimizer_of([part])
    second.load_state_dict(first.state_dict(), second.optimizer_config)
    train(part, second, range(3, 6))
    torch.testing.assert_close(part, whole)
    third = optimizer_of([part], row_second_moment=True)
    third.load_state_dict(first.state_dict(), third.optimizer_config)
    with pytest.raises(ValueError, match="--row-second-moment asks for 1 .* state has 3"):
        train(part, third, range(1))


def test_rows_of_half_precision_have_moments_of_full_precision():
    start = torch.randn(4, 3).bfloat16()
    weights = [start.clone().requires_grad_(), start.float().requires_grad_()]
    optimizers = [RowAdam([weight], **OPTIONS) for weight in weights]
    for step in range(4):
        for weight, optimizer in zip(weights, optimizers):
            optimizer.zero_grad()
            weight.grad = None
            rows = lookup(weight, torch.tensor([step % 2, 3]), True)
            rows.sum().backward()
            optimizer.step()
    assert optimizers[0].state[weights[0]]["exp_avg"].dtype == torch.float32
    torch.testing.assert_close(weights[0].float(), weights[1], rtol=0.02, atol=0.02)
    assert weights[0][2].equal(start[2]) and not weights[0][3].equal(start[3])


def test_a_loaded_state_has_its_types_again():
    weight = torch.randn(4, 3).bfloat16().requires_grad_()
    optimizer = RowAdam([weight], **OPTIONS)
    lookup(weight, torch.tensor([1, 3]), True).sum().backward()
    optimizer.step()
    again = RowAdam([weight], **OPTIONS)
    again.load_state_dict(optimizer.state_dict())  # torch gives a state the parameter's type
    again.step()
    state = again.state[weight]
    assert state["row_steps"].dtype == torch.int32 and state["row_steps"].tolist() == [0, 2, 0, 2]
    assert state["exp_avg"].dtype == state["exp_avg_sq"].dtype == torch.float32


def test_kinds_of_gradients_are_not_mixed():
    weight = torch.randn(4, 3, requires_grad=True)
    index = torch.tensor([1, 2])
    optimizer = RowAdam([weight], **OPTIONS)
    loss_of(weight, index, True).backward()
    optimizer.step()
    optimizer.zero_grad()
    loss_of(weight, index, False).backward()
    with pytest.raises(ValueError, match="was sparse, has a dense"):
        optimizer.step()
    other = RowAdam([weight], **OPTIONS)
    other.step()
    optimizer.zero_grad()
    other.zero_grad()
    loss_of(weight, index, True).backward()
    with pytest.raises(ValueError, match="state is one of dense gradients"):
        other.step()


@pytest.mark.parametrize("limit", [0.0, 0.5, 1e6])
def test_clipping_counts_a_row_that_comes_twice_once(limit):
    start = torch.randn(5, 3)
    index = torch.tensor([1, 1, 3])
    norms, gradients = [], []
    for name, sparse in (("adam", False), ("row_adam", True)):
        weight, other = start.clone().requires_grad_(), torch.ones(2, requires_grad=True)
        optimizer = optimizer_of([weight, other], name)
        (loss_of(weight, index, sparse) + (other**2).sum()).backward()
        norms.append(optimizer.clip_grad_norm(limit))
        grad = weight.grad.to_dense() if sparse else weight.grad
        gradients.append(torch.cat((grad.flatten(), other.grad)))
    torch.testing.assert_close(*norms)
    torch.testing.assert_close(*gradients)
    assert optimizer_of([torch.ones(1, requires_grad=True)]).clip_grad_norm(1.0) == 0


@pytest.mark.parametrize("factor", [0.25, torch.tensor(0.25)])
def test_gradients_are_multiplied(factor):
    weight, other = torch.randn(5, 3, requires_grad=True), torch.ones(2, requires_grad=True)
    optimizer = optimizer_of([weight, other])
    (loss_of(weight, torch.tensor([1, 1, 3]), True) + (other**2).sum()).backward()
    before = weight.grad.to_dense()
    optimizer.multiply_grads(factor)
    torch.testing.assert_close(weight.grad.to_dense(), before / 4)
    torch.testing.assert_close(other.grad, torch.full((2,), 0.5))


# ---- models --------------------------------------------------------------------------------------


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
