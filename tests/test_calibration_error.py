"""Expected calibration error, against a direct computation and on data of known confidence."""

import math

import pytest
import torch
from factory import make_batch, make_criterion, make_dictionary, make_model, make_table
from fairseq.logging import metrics

from fairseq_contout import target_table
from fairseq_contout.calibration import (
    BINS,
    GRID,
    calibration_error,
    grid_bins,
    grid_log_sum_exp,
)
from fairseq_contout.prior_calibration import fitted_bins


def by_hand(logits, target, scale):
    """The definition, prediction by prediction."""
    p = torch.softmax(scale * logits, dim=1)
    confidence, found = p.max(dim=1)
    bins = [[] for _ in range(BINS)]
    for c, right in zip(confidence.tolist(), found.eq(target).tolist()):
        bins[min(int(c * BINS), BINS - 1)].append((c, right))
    gaps = [len(b) * abs(sum(c for c, _ in b) - sum(r for _, r in b)) / len(b) for b in bins if b]
    return sum(gaps) / len(target)


def test_error_by_definition_for_every_scale():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(80, 12, dtype=torch.float64, generator=generator)
    target = torch.randint(12, (80,), generator=generator)
    bins = grid_bins(logits, target)
    parts = grid_bins(logits[:30], target[:30]) + grid_bins(logits[30:], target[30:])
    torch.testing.assert_close(bins, parts)
    for one, scale in zip(bins, GRID.tolist()):
        assert calibration_error(one) == pytest.approx(by_hand(logits, target, scale), abs=1e-12)


def test_it_is_small_where_the_data_follows_the_probabilities():
    generator = torch.Generator().manual_seed(1)
    logits = 3 * torch.randn(20_000, 5, dtype=torch.float64, generator=generator)
    target = torch.multinomial(logits.softmax(dim=1), 1, generator=generator).squeeze(1)
    errors = {s: calibration_error(b) for s, b in zip(GRID.tolist(), grid_bins(logits, target))}
    assert errors[1.0] < 0.02 and errors[1 / 8] > 0.2 and errors[8.0] > 0.1


def test_it_is_logged_at_the_calibrated_scale(tmp_path):
    dictionary = make_dictionary()
    model, sample = make_model(tmp_path, dictionary), make_batch(dictionary)
    criterion = make_criterion("cosine", dictionary).eval()
    model.eval()
    logs = [criterion(model, batch)[2] for batch in (sample, make_batch(dictionary, seed=1))]
    with metrics.aggregate(new_root=True) as aggregator:
        for log in logs:
            criterion.reduce_metrics([log])
    table = model.decoder.continuous_output.table
    found = table.scale / GRID
    before = int(found.ge(1).sum()) - 1
    way = 2 * math.log2(found[before])
    logits, targets = [], []
    for batch in (sample, make_batch(dictionary, seed=1)):
        real = batch["target"].ne(dictionary.pad())
        hidden = model(**batch["net_input"])[0][real]
        logits.append(table.scores(hidden) / table.scale)
        targets.append(batch["target"][real])
    logits, targets = torch.cat(logits), torch.cat(targets)
    bins = grid_bins(logits, targets)
    expected = 100 * calibration_error((1 - way) * bins[before] + way * bins[before + 1])
    values = aggregator.get_smoothed_values()
    assert values["ece"] == pytest.approx(expected, abs=0.01)
    assert 0 < way < 1


@pytest.mark.parametrize("scale", [0.6, 0.8, 1.2, 1.9, 2.7])
def test_between_two_scales_it_is_nearly_that_of_the_definition(scale):
    generator = torch.Generator().manual_seed(2)
    logits = 3 * torch.randn(20_000, 5, dtype=torch.float64, generator=generator)
    target = torch.multinomial(logits.softmax(dim=1), 1, generator=generator).squeeze(1)
    sums = (GRID.log2() - math.log2(scale)).square()  # lowest there
    found = calibration_error(fitted_bins(sums, grid_bins(logits, target)))
    assert found == pytest.approx(by_hand(logits, target, scale), abs=0.004)


def test_sums_for_all_scales_are_those_of_the_definition():
    torch.manual_seed(3)
    logits = torch.randn(40, 500) * torch.tensor([0.3, 5.0, 60.0]).repeat(14)[:40].unsqueeze(1)
    logits[:, 7] = -torch.inf
    expected = torch.stack([torch.logsumexp(scale * logits.double(), dim=1) for scale in GRID])
    found = grid_log_sum_exp(logits)
    torch.testing.assert_close(found.double(), expected, rtol=1e-6, atol=1e-6)
    exact = grid_log_sum_exp(logits.double())
    torch.testing.assert_close(exact, expected, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("length", [4, 8, 16, 32])
def test_the_sample_has_tokens_from_all_places_of_sentences(length, monkeypatch):
    table = make_table(words=20)[0]
    place = torch.arange(length).repeat(4096 // length)  # a batch without padding, row by row
    target = 4 + place % 16
    seen = []
    given = target_table.grid_log_sum_exp
    monkeypatch.setattr(
        target_table, "grid_log_sum_exp", lambda logits: seen.append(logits) or given(logits)
    )
    monkeypatch.setattr(target_table, "_CALIBRATION_ELEMENTS", 0)  # as where V is large
    monkeypatch.setattr(target_table, "_VALIDATION_ELEMENTS", 24 * 100)  # parts of 100 tokens
    hidden = table.rows(target) * (1 + place).unsqueeze(1)  # tells places apart
    table.score = "dot"
    table.validate(hidden, target)
    sampled = torch.cat(seen)
    assert len(sampled) == 256
    assert len(sampled.max(dim=1).values.round().unique()) == length
