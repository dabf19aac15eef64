"""Expected calibration error, against a direct computation and on data of known confidence."""

import math

import pytest
import torch
from factory import make_batch, make_criterion, make_dictionary, make_model, make_table
from fairseq.logging import metrics

from fairseq_contout import target_table
from fairseq_contout.calibration import (
    BINS,
    calibration_error,
    grid_bins,
    grid_nll,
    kept_sums,
    lowest_between,
    lowest_fine,
    lowest_point,
)
from fairseq_contout.prior_calibration import fitted_error, lowest_sum
from fairseq_contout.scale_grid import FINE_GRID, GRID, PARTS, between, grid_log_sum_exp


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
    for i, scale in enumerate(FINE_GRID.tolist()):
        exact = 1e-12 if i % PARTS == 0 else 1e-3  # interpolated in between
        expected = by_hand(logits, target, scale)
        assert calibration_error(bins[i]) == pytest.approx(expected, abs=exact)


def test_it_is_small_where_the_data_follows_the_probabilities():
    generator = torch.Generator().manual_seed(1)
    logits = 3 * torch.randn(20_000, 5, dtype=torch.float64, generator=generator)
    target = torch.multinomial(logits.softmax(dim=1), 1, generator=generator).squeeze(1)
    bins = grid_bins(logits, target)
    errors = {s: calibration_error(b) for s, b in zip(FINE_GRID.tolist(), bins)}
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
    logits, targets = [], []
    for batch in (sample, make_batch(dictionary, seed=1)):
        real = batch["target"].ne(dictionary.pad())
        hidden = model(**batch["net_input"])[0][real]
        logits.append(table.scores(hidden) / table.scale)
        targets.append(batch["target"][real])
    logits, targets = torch.cat(logits), torch.cat(targets)
    sums = grid_nll(logits, targets)
    fitted = FINE_GRID[0] * 2 ** (lowest_fine(sums)[0] / 8)
    assert fitted == pytest.approx(table.scale, rel=0.02)
    expected = 100 * by_hand(logits.double(), targets, fitted)
    values = aggregator.get_smoothed_values()
    assert values["ece"] == pytest.approx(expected, abs=0.1)
    assert values["ppl"] == pytest.approx(math.exp(sums.min() / len(targets)), rel=2e-3)


def test_what_is_not_finite_is_refused(tmp_path):
    dictionary = make_dictionary()
    model, sample = make_model(tmp_path, dictionary).eval(), make_batch(dictionary)
    model.decoder.continuous_output.projection.bias.data[0] = math.nan
    with pytest.raises(ValueError, match=r"must be finite, but \d+ of \d+ hold NaN or infinite"):
        make_criterion("cosine", dictionary).eval()(model, sample)


def sharp(count=2000, words=5000, seed=6):
    """Cosines of a table of many words, most targets far ahead of all, a tenth far behind."""
    generator = torch.Generator().manual_seed(seed)
    logits = 0.1 * torch.randn(count, words, dtype=torch.float64, generator=generator)
    target = torch.multinomial((50 * logits).softmax(dim=1), 1, generator=generator).squeeze(1)
    behind = count // 10
    logits[torch.arange(behind), target[:behind]] = -0.1
    logits[torch.arange(behind, count), target[behind:]] += 0.2
    return logits, target


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_likelihood_and_error_of_sharp_predictions_are_those_of_the_definition(dtype):
    logits, target = sharp()

    def nll(scale):
        return torch.nn.functional.cross_entropy(scale * logits, target).item()

    given = logits.to(dtype)
    sums = grid_nll(given, target)
    coarse = min(range(220, 390, 10), key=lambda i: nll(2 ** (i / 64)))  # it is convex
    assert 220 < coarse < 380
    best = min((2 ** (i / 64) for i in range(coarse - 10, coarse + 11)), key=nll)
    assert lowest_sum(sums) / len(target) == pytest.approx(nll(best), rel=1.5e-3)
    place = lowest_fine(sums)[0]
    scale = float(FINE_GRID[0]) * 2 ** (place / 8)
    assert scale == pytest.approx(best, rel=0.01)
    bins = grid_bins(given, target)
    found = fitted_error(sums, bins)
    assert found == pytest.approx(by_hand(logits, target, scale), abs=4e-3)
    # the sums that a checkpoint keeps give the scale, but not the likelihood
    kept = kept_sums(sums)
    assert lowest_point(kept) == pytest.approx(best, rel=0.03)
    assert lowest_between(kept)[2] / len(target) != pytest.approx(nll(best), rel=3e-3)
    # and neither do the intervals of its two points around the scale, mixed, give the error
    first = int(place) // PARTS * PARTS
    mixed = torch.lerp(bins[first], bins[first + PARTS], (place - first) / PARTS)
    assert abs(calibration_error(mixed) - found) > 0.01


def test_between_the_points_of_the_grid_polynomials_of_degree_5_are_exact():
    points, fine = GRID.log() + 5, FINE_GRID.log() + 5  # positive
    for degree in range(1, 6):
        found = between(-(points**degree), -degree * points ** (degree - 1))
        # at either end, where curvatures are differences of two slopes, only up to degree 2
        inner = slice(None) if degree <= 2 else slice(PARTS, -PARTS)
        torch.testing.assert_close(found[inner], -(fine**degree)[inner], rtol=1e-9, atol=1e-9)
    rising = between(torch.zeros_like(points), points)  # slopes that no such function has
    assert rising.eq(0).all()


@pytest.mark.parametrize("scale", [0.6, 0.8, 1.2, 1.9, 2.7])
def test_between_two_scales_it_is_nearly_that_of_the_definition(scale):
    generator = torch.Generator().manual_seed(2)
    logits = 3 * torch.randn(20_000, 5, dtype=torch.float64, generator=generator)
    target = torch.multinomial(logits.softmax(dim=1), 1, generator=generator).squeeze(1)
    sums = (FINE_GRID.log2() - math.log2(scale)).square()  # lowest there
    found = fitted_error(sums, grid_bins(logits, target))
    assert found == pytest.approx(by_hand(logits, target, scale), abs=0.004)


def test_sums_for_all_scales_are_those_of_the_definition():
    torch.manual_seed(3)
    logits = torch.randn(40, 500) * torch.tensor([0.3, 5.0, 60.0]).repeat(14)[:40].unsqueeze(1)
    logits[:, 7] = -torch.inf
    expected = torch.stack([torch.logsumexp(scale * logits.double(), dim=1) for scale in FINE_GRID])
    found = grid_log_sum_exp(logits)
    torch.testing.assert_close(found[::PARTS].double(), expected[::PARTS], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(found.double(), expected, rtol=1e-3, atol=1e-3)
    exact = grid_log_sum_exp(logits.double())
    torch.testing.assert_close(exact[::PARTS], expected[::PARTS], rtol=1e-13, atol=1e-13)


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
