"""Expected calibration error, against a direct computation and on data of known confidence."""

import pytest
import torch
from factory import make_batch, make_criterion, make_dictionary, make_model
from fairseq.logging import metrics

from fairseq_contout.calibration import BINS, GRID, calibration_error, grid_bins


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
    scale = GRID[table.calibration.sums.argmin()].item()
    logits, targets = [], []
    for batch in (sample, make_batch(dictionary, seed=1)):
        real = batch["target"].ne(dictionary.pad())
        hidden = model(**batch["net_input"])[0][real]
        logits.append(table.scores(hidden) / table.scale)
        targets.append(batch["target"][real])
    expected = 100 * by_hand(torch.cat(logits), torch.cat(targets), scale)
    values = aggregator.get_smoothed_values()
    assert values["ece"] == pytest.approx(expected, abs=0.01)
