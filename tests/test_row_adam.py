"""The optimizer row_adam: each row takes the steps of an Adam of its own."""

import math
from argparse import Namespace

import pytest
import torch
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


def test_a_row_whose_gradient_is_zero_takes_no_step():
    """fairseq's batch for a process that has run out of data: its loss is multiplied by 0."""
    start = torch.randn(6, 3)
    weights = [start.clone().requires_grad_() for _ in range(2)]
    optimizers = [RowAdam([weight], **OPTIONS) for weight in weights]
    for step in range(4):
        index = torch.tensor([step % 2, 2])
        for weight, optimizer in zip(weights, optimizers):
            optimizer.zero_grad()
            loss_of(weight, index, True).backward()
        # rows that were seen, one that is seen in this update, and one that never is
        (0 * loss_of(weights[1], torch.tensor([0, 1, 2, 4, 4]), True)).backward()
        for optimizer in optimizers:
            optimizer.step()
    assert weights[0].equal(weights[1])  # to the bit
    for name in ("row_steps", "exp_avg", "exp_avg_sq"):
        one, other = (o.state[w][name] for o, w in zip(optimizers, weights))
        assert one.equal(other), name
    assert optimizers[1].state[weights[1]]["row_steps"].tolist() == [2, 2, 4, 0, 0, 0]
    optimizers[1].zero_grad()
    before = weights[1].detach().clone()
    (0 * loss_of(weights[1], torch.tensor([0, 5]), True)).backward()
    optimizers[1].step()  # all of them
    assert weights[1].equal(before)


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
