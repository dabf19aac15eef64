"""What is logged of a learned table at each validation, and when it warns of a collapse."""

import logging
from types import SimpleNamespace

import pytest
import torch
from factory import make_criterion, make_dictionary
from fairseq.logging import metrics

from fairseq_contout.criterions.base import ContinuousCriterion
from fairseq_contout.criterions.monitor import MONITORS, monitor
from fairseq_contout.dispersion import effective_rank
from fairseq_contout.learned_table import LearnedTable


def spread_table(words=300, dim=16):
    dictionary = make_dictionary(words)
    weight = torch.randn(len(dictionary), dim, generator=torch.Generator().manual_seed(0))
    return LearnedTable(torch.nn.Parameter(weight), dictionary, "cosine", 16.0)


def test_what_is_monitored(monkeypatch, caplog):
    table = spread_table()
    tokens = torch.randint(4, 304, (500,), generator=torch.Generator().manual_seed(1))
    values = monitor(table, tokens)
    assert set(values) == {*MONITORS, "monitored"} and "collapsing" not in caplog.text
    rows = table.rows().detach().double()[table.emittable]
    cosines = (rows @ rows.t()).fill_diagonal_(0)
    count = len(rows)
    assert values["table_cosine"] == pytest.approx(
        cosines.sum().item() / count / (count - 1), abs=1e-6
    )
    assert values["table_angle"] == pytest.approx(cosines.max().acos().rad2deg().item(), rel=1e-4)
    singular = torch.linalg.svdvals(rows)
    share = singular / singular.sum()
    assert values["table_rank"] == pytest.approx(
        (-share * share.log()).sum().exp().item(), rel=1e-5
    )
    near = (cosines - 2 * torch.eye(count)).topk(10).indices.flatten().bincount(minlength=count)
    centred = near - near.double().mean()
    assert values["table_hubness"] == pytest.approx(
        ((centred**3).mean() / (centred**2).mean() ** 1.5).item(), rel=1e-5
    )
    pairs = [(a, b) for a in tokens.tolist() for b in tokens.tolist() if a != b]
    rows = table.rows().detach().double()
    found = sum((rows[a] * rows[b]).sum().item() for a, b in pairs) / len(pairs)
    assert values["token_cosine"] == pytest.approx(found, abs=1e-6)
    assert monitor(table, tokens[:1])["token_cosine"] == 0  # no two words
    monkeypatch.setattr("fairseq_contout.criterions.monitor.MONITORED_ROWS", 100)
    fewer = effective_rank(table.rows(table.emittable.nonzero()[::4, 0]).detach())
    assert monitor(table, tokens)["table_rank"] == pytest.approx(fewer) != values["table_rank"]


def test_frequent_words_that_collapse_are_seen(caplog):
    """They are few among many rows, as Zipf's law has it: the rows alone look spread."""
    table = spread_table(words=4000)
    with torch.no_grad():
        table.weight[4:44] = table.weight[4] + 0.1 * torch.randn(40, 16)
    tokens = (torch.rand(4000, generator=torch.Generator().manual_seed(1)) * 8.29).exp().long() + 4
    with caplog.at_level(logging.WARNING):
        values = monitor(table, tokens.clamp(max=4003))
    assert values["table_cosine"] < 0.01 and values["table_rank"] > 15
    assert values["token_cosine"] > 0.15 and "collapsing" not in caplog.text
    with torch.no_grad():
        table.weight[4:404] = table.weight[4] + 0.1 * torch.randn(400, 16)
    with caplog.at_level(logging.WARNING):
        values = monitor(table, tokens.clamp(max=4003))
    assert values["table_cosine"] < 0.05 and values["token_cosine"] > 0.5
    assert "collapsing: mean cosine of two rows 0.0" in caplog.text


@pytest.mark.parametrize("rank", [1, 2])
def test_few_dimensions_are_a_collapse(rank, caplog):
    table = spread_table(dim=64)
    with torch.no_grad():
        table.weight[:, rank:] *= 1e-3
    values = monitor(table, torch.arange(4, 300))
    assert values["table_cosine"] < 0.5 and values["table_rank"] < 6.4
    assert "effective rank" in caplog.text


def test_every_number_is_logged_as_the_mean_of_the_processes():
    one, other = ({name: float(i * k) for i, name in enumerate(MONITORS)} for k in (1, 3))
    base = {"loss": 1.0, "ntokens": 2, "sample_size": 2, "monitored": 1}
    with metrics.aggregate() as logged:
        ContinuousCriterion.reduce_metrics([{**base, **one}, {**base, **other}])
    values = logged.get_smoothed_values()
    assert {name: values[name] for name in MONITORS} == {n: 2.0 * i for i, n in enumerate(MONITORS)}


def test_a_validation_looks_at_its_first_batch_alone():
    dictionary = make_dictionary(words=30)
    table = spread_table(words=30)
    criterion = make_criterion("contrastive", dictionary, sampled_negatives=8).eval()
    output = SimpleNamespace(table=table)
    tokens = torch.tensor([[5, 5, 5, 6], [5, 7, 7, 5]])
    hidden = torch.randn(2, 4, 16)

    class Model:
        decoder = SimpleNamespace(continuous_output=output)

        def __call__(self):
            return hidden, None

        def get_targets(self, sample, net_output):
            return sample["target"]

    sample = {"net_input": {}, "target": tokens}
    first = criterion(Model(), sample)[2]
    rows = table.rows().detach().double()
    flat = tokens.flatten().tolist()
    pairs = [(a, b) for a in flat for b in flat if a != b]
    expected = sum((rows[a] * rows[b]).sum().item() for a, b in pairs) / len(pairs)
    assert first["token_cosine"] == pytest.approx(expected, abs=1e-6)
    assert "token_cosine" not in criterion(Model(), sample)[2]
