"""--table-storage, --table-dtype and --table-device: the same results, other places."""

from argparse import Namespace

import pytest
import torch
from factory import FakeTask, make_batch, make_criterion, make_dictionary, make_rows
from fairseq.models import ARCH_CONFIG_REGISTRY, ARCH_MODEL_REGISTRY

from fairseq_contout.kept_table import KeptTable, fingerprint
from fairseq_contout.target_table import TargetTable, save_table

ARCH = "continuous_transformer_tiny"
PLACES = [
    {"in_file": torch.zeros(16)},
    {"on_cpu": True},
    {"in_file": torch.zeros(16), "on_cpu": True},
]


@pytest.fixture
def dictionary():
    return make_dictionary()


@pytest.fixture
def path(tmp_path, dictionary):
    rows = make_rows(dictionary)
    path = tmp_path / "table.safetensors"
    save_table(path, rows, dictionary, source="random", origins={"random": len(rows)})
    return path


def options_of(path, **options):
    args = Namespace(arch=ARCH, criterion="cosine", target_table=str(path), dropout=0.0, **options)
    ARCH_CONFIG_REGISTRY[ARCH](args)
    return args


def build(args, dictionary):
    torch.manual_seed(1)
    return ARCH_MODEL_REGISTRY[ARCH].build_model(args, FakeTask(dictionary))


def table_of(model):
    return model.decoder.continuous_output.table


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("score", ["dot", "cosine", "l2", "power_spherical"])
def test_results_do_not_depend_on_the_place(place, score, dictionary):
    rows = make_rows(dictionary)
    tables = TargetTable(rows, dictionary, score), KeptTable(rows, dictionary, score, **place)
    hidden, target = torch.randn(7, 8), torch.randint(4, 24, (7,))
    for call in (
        lambda table: table.log_probs(hidden),
        lambda table: table.candidates(hidden, 5).log_probs,
        lambda table: table.log_prob_of(hidden, target),
        lambda table: table.validate(hidden, target).nll,
        lambda table: table.rows(target),
    ):
        torch.testing.assert_close(call(tables[1]), call(tables[0]), rtol=0, atol=0)


def test_averages_of_checkpoints_keep_the_fingerprint(path, dictionary):
    args = options_of(path, table_storage="file")
    states = [build(args, dictionary).state_dict() for _ in range(3)]
    # as fairseq's scripts/average_checkpoints.py: sums, and then a division in place
    mean = {name: value.clone() for name, value in states[0].items()}
    for state in states[1:]:
        for name, value in state.items():
            mean[name] += value
    for value in mean.values():
        value.div_(3) if value.is_floating_point() else value.floor_divide_(3)
    mean = {name: value.float() for name, value in mean.items()}  # and --store-ema's
    build(args, dictionary).load_state_dict(mean, strict=True)


def test_other_options_for_the_same_checkpoint(path, dictionary):
    args = options_of(path, table_storage="file")
    state = build(args, dictionary).state_dict()
    args.table_dtype = "bfloat16"
    half = build(args, dictionary)
    half.load_state_dict(state, strict=True)
    assert table_of(half).weight.dtype == torch.bfloat16
    args.table_storage = "checkpoint"
    with pytest.raises(
        ValueError, match="trained with --table-storage file, .* asks for checkpoint"
    ):
        build(args, dictionary)
    other = options_of(path)
    build(other, dictionary)
    other.table_storage = "file"
    with pytest.raises(ValueError, match="trained with --table-storage checkpoint, .* file"):
        build(other, dictionary)


def test_rows_on_the_cpu_and_a_model_on_a_gpu(dictionary):
    from torch._subclasses.fake_tensor import FakeTensorMode

    rows = make_rows(dictionary)
    table = KeptTable(rows, dictionary, "cosine", on_cpu=True)
    term = make_criterion("contrastive", dictionary).train().term
    with FakeTensorMode(allow_non_fake_inputs=True):  # computes places and shapes, no numbers
        device = torch.device("cuda")
        index = torch.empty(7, dtype=torch.long, device=device)
        assert table.rows(index).device.type == "cuda"
        assert table.rows().device.type == "cpu"
        table.emittable = torch.empty(len(rows), dtype=torch.bool, device=device)
        text, drawn, sums = term._distributions(table)
        assert {part.device.type for part in (text, drawn, sums)} == {"cuda"}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_rows_of_16_bits_are_computed_with_in_float32(dtype, dictionary, monkeypatch):
    from fairseq_contout import knn

    rows = make_rows(dictionary).to(dtype)
    expected = TargetTable(rows.float(), dictionary, "dot")
    table = KeptTable(rows, dictionary, "dot", on_cpu=True)
    hidden = torch.randn(7, 8)
    torch.testing.assert_close(table.log_probs(hidden), expected.log_probs(hidden))
    monkeypatch.setattr(knn, "CHUNK_ROWS", 5)
    torch.testing.assert_close(table.log_probs(hidden), expected.log_probs(hidden))
    assert table.rows(torch.tensor([5])).dtype == torch.float32


def test_the_fingerprint_is_of_every_number_the_shape_and_the_type():
    rows = torch.randn(40_000, 3)
    own = fingerprint(rows)
    assert own.equal(fingerprint(rows.clone())) and own.shape == (16,)
    for row in (0, 20_000, 39_999):
        other = rows.clone()
        other[row, 2] += 1e-6 * other[row, 2].abs() + 1e-7
        assert not own.equal(fingerprint(other))
    assert not own.equal(fingerprint(rows.view(30_000, 4)))
    assert not own.equal(fingerprint(rows.bfloat16()))


def test_a_checkpoint_without_rows_and_what_it_refuses(tmp_path, path, dictionary):
    args = options_of(path, table_storage="file")
    model = build(args, dictionary)
    state = model.state_dict()
    assert not any(key.endswith("table.weight") for key in state)
    again = build(args, dictionary)  # as fairseq-generate does, with the options of the checkpoint
    again.load_state_dict(state, strict=True)
    assert table_of(again).weight.equal(table_of(model).weight)

    moved = tmp_path / "moved.safetensors"
    path.rename(moved)
    with pytest.raises(ValueError, match="no such file, but .* --model-overrides"):
        build(args, dictionary)
    args.target_table = str(moved)
    build(args, dictionary).load_state_dict(state, strict=True)

    rows = make_rows(dictionary, seed=9)
    save_table(moved, rows, dictionary, source="random", origins={"random": len(rows)})
    with pytest.raises(ValueError, match="other rows than those of --target-table; give the file"):
        build(args, dictionary).load_state_dict(state, strict=True)


def test_rows_of_a_file_are_mapped_not_read(path, dictionary):
    table = table_of(build(options_of(path, table_storage="file"), dictionary))
    begin = table.weight.data_ptr()
    with open("/proc/self/maps") as maps:
        spans = [line.split() for line in maps if "table.safetensors" in line]
    edges = [[int(edge, 16) for edge in span[0].split("-")] for span in spans]
    assert any(low <= begin < high for low, high in edges)


def test_half_precision_and_moves_leave_the_rows(path, dictionary):
    model = build(options_of(path, table_storage="file"), dictionary)
    model.half()
    assert table_of(model).weight.dtype == torch.float32
    assert model.decoder.continuous_output.projection.weight.dtype == torch.float16
    on_cpu = build(options_of(path, table_device="cpu", table_dtype="bfloat16"), dictionary)
    on_cpu.to("meta")  # a device that is always there
    assert table_of(on_cpu).weight.device.type == "cpu"
    assert table_of(on_cpu).emittable.device.type == "meta"
    assert table_of(on_cpu).rows(torch.tensor([3, 4])).shape == (2, 8)
    assert "decoder.continuous_output.table.weight" in on_cpu.state_dict()


@pytest.mark.parametrize("options", [{"table_dtype": "float16"}, {"table_storage": "file"}])
def test_a_criterion_learns_with_it(options, path, dictionary):
    model = build(options_of(path, **options), dictionary)
    loss, _, log = make_criterion("cosine", dictionary)(model, make_batch(dictionary))
    loss.backward()
    expected, _, _ = make_criterion("cosine", dictionary)(
        build(options_of(path), dictionary), make_batch(dictionary)
    )
    torch.testing.assert_close(loss, expected, rtol=1e-3, atol=1e-3)
    assert model.decoder.continuous_output.projection.weight.grad.norm() > 0 and log["ntokens"]


@pytest.mark.parametrize("option", ["table_storage", "table_dtype", "table_device"])
def test_a_learned_table_is_refused(option, dictionary):
    value = {"table_storage": "file", "table_dtype": "float16", "table_device": "cpu"}[option]
    flag = f"--{option.replace('_', '-')} {value} is for a table that stays"
    with pytest.raises(ValueError, match=flag):
        build(options_of("learned", **{option: value}), dictionary)
