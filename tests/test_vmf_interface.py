"""The von Mises-Fisher normaliser as part of torch: types, shapes, devices, cost, bad input."""

import math
import time

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from fairseq_contout import vmf
from fairseq_contout.vmf import log_normalizer, mean_resultant_length


def derivatives(kappa, dim):
    """log C and its two derivatives by autograd."""
    kappa = kappa.detach().requires_grad_()
    value = log_normalizer(kappa, dim)
    (slope,) = torch.autograd.grad(value.sum(), kappa, create_graph=True)
    (bend,) = torch.autograd.grad(slope.sum(), kappa)
    return value, slope, bend


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_gives_float32(dtype):
    kappa = torch.tensor([0.5, 30.0, 60000.0], dtype=dtype, requires_grad=True)
    value = log_normalizer(kappa, 300)
    assert value.dtype == mean_resultant_length(kappa, 300).dtype == torch.float32
    torch.testing.assert_close(value, log_normalizer(kappa.float(), 300), rtol=0, atol=0)
    value.sum().backward()
    assert kappa.grad.dtype == dtype
    expected = -mean_resultant_length(kappa.detach(), 300)
    torch.testing.assert_close(kappa.grad, expected.to(dtype), rtol=0, atol=0)


@pytest.mark.parametrize("shape", [(), (0,), (5,), (3, 4), (2, 0, 3)])
def test_shape_is_kept(shape):
    kappa = torch.rand(shape) * 50
    value = log_normalizer(kappa, 300)
    assert value.shape == mean_resultant_length(kappa, 300).shape == shape
    flat = log_normalizer(kappa.flatten(), 300)
    torch.testing.assert_close(value.flatten(), flat)


def test_strided_input():
    kappa = (torch.rand(6, 4) * 50).t()[:, ::2]
    expected = log_normalizer(kappa.contiguous(), 16)
    torch.testing.assert_close(log_normalizer(kappa, 16), expected)


def test_nothing_reads_the_values_on_the_host():
    # A tensor on the meta device has no values: whatever asks for one fails.
    kappa = torch.empty(3, 4, device="meta")
    for tensor in derivatives(kappa, 16):
        assert tensor.device.type == "meta" and tensor.shape == (3, 4)


class OperationLog(TorchDispatchMode):
    """Names of the operations run, in order."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(str(func))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("dim", [2, 300])
def test_work_does_not_depend_on_kappa(dim):
    names = []
    for kappa in ([1e-6, 2e-6], [1e6, 3.0]):
        with OperationLog() as log:
            derivatives(torch.tensor(kappa, dtype=torch.float64), dim)
        names.append(log.names)
    assert names[0] == names[1]
    assert len(names[0]) < 800


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("dim", [2, 300])
@pytest.mark.parametrize("count", [1, 6, 7, 8, 50])
def test_blocks_do_not_show(count, dim, dtype, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    kappa = torch.logspace(-3, 4, 50).to(dtype)[:count]
    whole = derivatives(kappa, dim)
    monkeypatch.setattr(vmf, "BLOCK", 7)
    rtol = 1e-12 if dtype == torch.float64 else 1e-6
    for found, expected in zip(derivatives(kappa, dim), whole):
        torch.testing.assert_close(found, expected, rtol=rtol, atol=0, check_dtype=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_no_temporary_tensor_but_one_scratch(dtype, monkeypatch):
    # Everything else is written in place, or is a view, or one of the constants.
    monkeypatch.setattr(vmf, "BLOCK", 100)
    kappa = torch.rand(1000, dtype=dtype)
    with OperationLog() as log:
        log_normalizer(kappa, 16)
    kinds = [name.split(".")[1] for name in log.names if not name.endswith(".out")]
    made = [kind for kind in kinds if kind not in ("alias", "slice", "unbind", "view", "full")]
    made = [kind for kind in made if not kind.endswith("_")]
    assert sorted(made) == ["empty", "empty", "empty_like"]

    assert log.names.count("aten.rsqrt.out") == math.ceil(10 / torch.get_num_threads())


def test_training_keeps_two_numbers_a_token():
    saved = []
    kappa = torch.rand(1000, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: saved.append(t.numel()) or t, lambda t: t
    ):
        log_normalizer(kappa, 16)
    assert saved == [1000, 1000]


def test_a_million_values_take_seconds():
    kappa = torch.logspace(-6, 6, 10**6, requires_grad=True)
    start = time.perf_counter()
    log_normalizer(kappa, 300).sum().backward()
    assert time.perf_counter() - start < 5  # 0.15 s on one idle core


def test_vmap_and_functional_gradients():
    kappa = torch.tensor([0.1, 3.0, 80.0], dtype=torch.float64)
    slope = torch.func.grad(lambda k: log_normalizer(k, 300))
    found = torch.func.vmap(slope)(kappa)
    expected = -mean_resultant_length(kappa, 300)
    torch.testing.assert_close(found, expected, rtol=1e-14, atol=0)
    found = torch.func.grad(lambda k: torch.func.vmap(log_normalizer, (0, None))(k, 300).sum())
    torch.testing.assert_close(found(kappa), expected, rtol=1e-14, atol=0)
    _, _, bend = derivatives(kappa, 300)
    found = torch.func.vmap(torch.func.grad(slope))(kappa)
    torch.testing.assert_close(found, bend, rtol=1e-14, atol=0)


def test_vmap_over_another_dimension():
    kappa = torch.rand(3, 4, 2) * 50
    found = torch.func.vmap(lambda k: log_normalizer(k, 16), in_dims=1, out_dims=1)(kappa)
    torch.testing.assert_close(found, log_normalizer(kappa, 16))


@pytest.mark.parametrize("bad", [-1.0, -1e-30, math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("dim", [2, 300])
def test_kappa_outside_its_range_is_nan_and_stays_alone(bad, dim):
    kappa = torch.tensor([2.0, bad, 7.0], dtype=torch.float64)
    alone = derivatives(kappa[[0, 2]], dim)
    for found, expected in zip(derivatives(kappa, dim), alone):
        assert found[1].isnan()
        torch.testing.assert_close(found[[0, 2]], expected, rtol=1e-11, atol=0)


@pytest.mark.parametrize("function", [log_normalizer, mean_resultant_length])
@pytest.mark.parametrize("dim", [1, 0, -3, 2.5, 300.0, "300", None, True])
def test_bad_dim_is_refused(function, dim):
    with pytest.raises(ValueError, match=r"dim must be an integer of at least 2, but is .*; pass"):
        function(torch.ones(2), dim)


@pytest.mark.parametrize("function", [log_normalizer, mean_resultant_length])
@pytest.mark.parametrize("kappa", [torch.ones(2, dtype=torch.long), torch.ones(1) * 1j, 3.0, [1.0]])
def test_kappa_that_is_no_float_tensor_is_refused(function, kappa):
    with pytest.raises(ValueError, match="kappa must be a floating-point tensor, but is .*; conv"):
        function(kappa, 300)


def test_numpy_integers_are_integers():
    assert log_normalizer(torch.ones(1), np.int64(300)) == log_normalizer(torch.ones(1), 300)
