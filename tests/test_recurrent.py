"""Steps of a recurrence whose weights get one gradient: the same sum as step by step."""

from contextlib import nullcontext

import pytest
import torch
from fairseq.models.lstm import AttentionLayer
from torch import nn

from fairseq_contout.models.recurrent import (
    GatheredWeight,
    GatheringAttention,
    GatheringLSTMCell,
)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(1)


def rand(*shape):
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


@pytest.mark.parametrize("batch", [(), (3,)])
def test_products_and_gradients_of_a_weight(batch):
    weight, inputs = rand(*batch, 4, 5), [rand(*batch, 2, 5) for _ in range(3)]

    def steps(weight, *inputs):
        weight, total = GatheredWeight(weight), 0
        for number, one in enumerate(inputs):
            # a step reads the one before it, as in a recurrence
            total = (weight(one * (1 + torch.as_tensor(total).sum() / 10)).tanh()) * (number + 1)
        return total

    def plain(weight, *inputs):
        total = 0
        for number, one in enumerate(inputs):
            one = one * (1 + torch.as_tensor(total).sum() / 10)
            total = (one @ weight.transpose(-1, -2)).tanh() * (number + 1)
        return total

    torch.testing.assert_close(steps(weight, *inputs), plain(weight, *inputs))
    assert torch.autograd.gradcheck(steps, (weight, *inputs))
    ours, theirs = (
        torch.autograd.grad(f(weight, *inputs).sum(), (weight, *inputs)) for f in (steps, plain)
    )
    torch.testing.assert_close(ours, theirs)


def test_a_weight_or_inputs_without_gradient():
    weight, inputs = rand(4, 5), rand(2, 5)
    GatheredWeight(weight.detach())(inputs).sum().backward()
    torch.testing.assert_close(inputs.grad, weight.detach().sum(dim=0).expand(2, 5))
    assert weight.grad is None
    GatheredWeight(weight)(inputs.detach()).sum().backward()
    torch.testing.assert_close(weight.grad, inputs.detach().sum(dim=0).expand(4, 5))
    GatheredWeight(weight)  # which no step reads
    with torch.no_grad():
        assert not GatheredWeight(weight)(inputs).requires_grad


def test_an_unused_step_has_no_gradient():
    weight, inputs = rand(4, 5), rand(2, 5)
    gathered = GatheredWeight(weight)
    used, _ = gathered(inputs), gathered(inputs * 2)
    used.sum().backward()
    torch.testing.assert_close(weight.grad, inputs.detach().sum(dim=0).expand(4, 5))


def three_steps(weight, inputs):
    weight = GatheredWeight(weight)
    for _ in range(3):
        inputs = weight(inputs).tanh()
    return inputs.square().sum()


def three_plain_steps(weight, inputs):
    for _ in range(3):
        inputs = (inputs @ weight.t()).tanh()
    return inputs.square().sum()


def test_backward_passes_do_not_count_one_anothers_steps():
    weight, inputs = rand(4, 4), rand(2, 4)
    expected = torch.autograd.grad(three_plain_steps(weight, inputs), (weight, inputs))
    loss = three_steps(weight, inputs)
    # a pass that does not reach the weight, one that does, and one more
    (first,) = torch.autograd.grad(loss, inputs, retain_graph=True)
    torch.testing.assert_close(first, expected[1])
    for retain in (True, False):
        found = torch.autograd.grad(loss, (weight, inputs), retain_graph=retain)
        torch.testing.assert_close(found, expected)
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        loss.backward()


def test_second_derivatives():
    weight, inputs = rand(4, 4), rand(2, 4)
    assert torch.autograd.gradgradcheck(three_steps, (weight, inputs))
    found = []
    for loss_of in (three_steps, three_plain_steps):
        loss = loss_of(weight, inputs)
        slope = torch.autograd.grad(loss, weight, create_graph=True)[0]
        found.append(torch.autograd.grad(loss + slope.square().sum(), (weight, inputs)))
    torch.testing.assert_close(*found)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_under_autocast(dtype):
    weight, inputs = rand(4, 4), rand(2, 4)
    given = [weight.detach().float().requires_grad_(), inputs.detach().to(dtype).requires_grad_()]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = three_steps(*given)
    found = torch.autograd.grad(loss, given)
    expected = torch.autograd.grad(three_plain_steps(weight, inputs), (weight, inputs))
    assert [x.dtype for x in found] == [torch.float32, dtype]
    for one, other in zip(found, expected):
        assert (one - other).norm() < 0.05 * other.norm()


def test_more_steps_than_half_precision_counts():
    weight = torch.ones(1, 1, dtype=torch.bfloat16, requires_grad=True)
    gathered = GatheredWeight(weight)
    torch.cat([gathered(torch.ones_like(weight)) for _ in range(300)]).sum().backward()
    assert weight.grad.item() == 300


def test_steps_are_kept_no_longer_than_they_are_wanted():
    weight, inputs = rand(4, 4), rand(2, 4)
    gathered = GatheredWeight(weight)
    loss = gathered(gathered(inputs).tanh()).sum()
    torch.autograd.grad(loss, inputs, retain_graph=True)
    # they would keep the graph, and it them
    assert not any(x.requires_grad for step in gathered._steps for x in step)
    loss.backward()
    frozen = GatheredWeight(weight.detach())
    frozen(inputs).sum().backward()
    assert gathered._steps == frozen._steps == []


def run(module, gather, steps):
    """Return outputs and gradients of a module's steps, gathered or as fairseq has them."""
    module.zero_grad()
    with module.gather(*gather) if gather is not None else nullcontext():
        outputs = steps()
    leaves = [*module.parameters()]
    sum((x**2).sum() for x in outputs).backward()
    return [x.detach() for x in outputs] + [p.grad.clone() for p in leaves]


def test_a_cell_is_that_of_torch():
    cell = GatheringLSTMCell(5, 4).double()
    inputs = rand(6, 3, 5)

    def steps():
        hidden = state = torch.zeros(3, 4, dtype=torch.float64)
        found = []
        for one in inputs:
            hidden, state = cell(one, (hidden, state))
            found += [hidden, state]
        return found

    plain = run(cell, None, steps)
    first = inputs.grad.clone()
    inputs.grad = None
    torch.testing.assert_close(run(cell, (), steps), plain)
    torch.testing.assert_close(inputs.grad, first)
    assert isinstance(cell, nn.LSTMCell) and cell._weight is None


@pytest.mark.parametrize("padded", [False, True])
def test_attention_is_that_of_fairseq(padded):
    theirs = AttentionLayer(6, 6, 6).double()
    theirs.__class__ = GatheringAttention
    sources, states = rand(5, 3, 6), rand(4, 3, 6)
    mask = torch.zeros(5, 3, dtype=torch.bool)
    mask[3:, 1] = padded

    def steps():
        found = []
        for state in states:
            found += theirs(state, sources, mask if padded else None)
        return found

    plain = run(theirs, None, steps)
    first = sources.grad.clone(), states.grad.clone()
    sources.grad = states.grad = None
    torch.testing.assert_close(run(theirs, (sources,), steps), plain)
    torch.testing.assert_close((sources.grad, states.grad), first)
