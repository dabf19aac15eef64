"""A unigram prior: shares of words, the fit of its weight, and the probabilities of a table."""

import copy
import math

import pytest
import torch
from factory import SCORES, make_dictionary, make_rows, make_table
from fairseq.logging import metrics
from searching import PRIOR_WEIGHT, give_prior, large_table

from fairseq_contout.calibration import (
    BINS,
    calibration_error,
    grid_bins,
    grid_nll,
    kept_sums,
    lowest_fine,
)
from fairseq_contout.criterions.logged import log_means
from fairseq_contout.kept_table import KeptTable
from fairseq_contout.learned_table import LearnedTable
from fairseq_contout.prior import KINDS, UnigramPrior, half_circle, unigram_shares
from fairseq_contout.prior_calibration import (
    WEIGHTS,
    PriorCalibration,
    fitted_error,
    lowest_pair,
    lowest_sum,
    lowest_weight,
    prior_grid_scores,
    without_prior,
)
from fairseq_contout.scale_grid import FINE_GRID, GRID, PARTS

# ---- shares of words -----------------------------------------------------------------------------


def shares_by_hand(counts, emittable, kind="counts"):
    """The formula of the docstring, word by word."""
    counts = {w: c for w, (c, able) in enumerate(zip(counts, emittable)) if able}
    seen = [c for c in counts.values() if c]
    unseen = len(counts) - len(seen)
    if not seen:
        return [1 / unseen if w in counts else 0.0 for w in range(len(emittable))]
    least = min(seen)
    n = sum(seen) / least
    mass = sum(least <= c < 2 * least for c in seen) / (n + 1)
    if kind == "seen":
        n, seen = len(seen), [1] * len(seen)
        counts = {w: min(c, 1) for w, c in counts.items()}
    mass = min(mass, unseen / (n + unseen))
    share = {w: (1 - mass) * c / sum(seen) if c else mass / unseen for w, c in counts.items()}
    return [share.get(w, 0.0) for w in range(len(emittable))]


COUNTS = {
    "text": [0, 7, 40, 11, 5, 1, 1, 2, 0, 0, 0, 0, 1, 3, 0, 0],
    "of a few unseen words": [5, 9, 1, 1, 1, 1, 2, 0, 1, 1, 8, 8, 3, 3, 4, 4],
    "no word is unseen": list(range(1, 17)),
    "none is seen": [0] * 16,
    "all once": [1] * 8 + [0] * 8,
    "each often": [1000, 2001, 1999] + [0] * 13,
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", COUNTS)
def test_shares_are_those_of_the_formula(name, kind):
    counts = torch.tensor(COUNTS[name])
    emittable = torch.ones(16, dtype=torch.bool)
    emittable[[0, 1, 15]] = False
    shares = unigram_shares(counts, emittable, kind)
    expected = shares_by_hand(COUNTS[name], emittable.tolist(), kind)
    torch.testing.assert_close(shares, torch.tensor(expected, dtype=torch.float64))
    assert shares.sum().item() == pytest.approx(1) and (shares > 0).equal(emittable)
    # more tokens, more probable: an unseen word is never likelier than a seen one
    order = counts[emittable].argsort()
    assert (shares[emittable][order].diff() >= -1e-15).all()


def test_the_mass_of_unseen_words_is_that_of_words_seen_once():
    counts = torch.cat((torch.full((50,), 20), torch.ones(25), torch.zeros(1000))).long()
    shares = unigram_shares(counts, torch.ones(1075, dtype=torch.bool))
    assert shares[75:].sum().item() == pytest.approx(25 / 1026)
    # whatever the number of passes over the text
    for passes in (2, 7):
        again = unigram_shares(passes * counts, torch.ones(1075, dtype=torch.bool))
        torch.testing.assert_close(again, shares)


# ---- the fit -------------------------------------------------------------------------------------


def problem(count=300, words=25, dtype=torch.float64, seed=0):
    """Logits with a word that is never emitted, targets and log π, with equal counts among it."""
    draw = torch.Generator().manual_seed(seed)
    logits = torch.randn(count, words, dtype=dtype, generator=draw)
    logits[:, 3] = -torch.inf
    log_prior = (1.0 / (1 + torch.arange(words) // 2)).to(dtype)
    log_prior = (log_prior / log_prior.sum()).log()
    log_prior[3] = 0
    target = torch.randint(4, words, (count,), generator=draw)
    return logits, target, log_prior


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_grid_is_the_definition_for_each_scale_and_weight(dtype):
    logits, target, log_prior = problem(60, dtype=dtype)
    logits[::3] *= 20
    found = prior_grid_scores(logits, target, log_prior)
    loose = {"rtol": 1e-5, "atol": 1e-3} if dtype == torch.float32 else {"rtol": 1e-10, "atol": 0}
    for i, scale in enumerate(FINE_GRID.tolist()):
        near = loose if i % PARTS == 0 else {"rtol": 1e-3, "atol": 0.1}  # between: interpolated
        for b, weight in enumerate(WEIGHTS):
            lprobs = torch.log_softmax(scale * logits.double() + weight * log_prior.double(), dim=1)
            nll = -lprobs.gather(1, target.unsqueeze(1)).sum()
            torch.testing.assert_close(found.nll[b, i], nll, **near)
            if dtype == torch.float64 and i % PARTS == 0:  # intervals have edges
                confidence, best = lprobs.exp().max(dim=1)
                right = best.eq(target).double()
                place = (confidence * BINS).long().clamp(max=BINS - 1)
                for j in range(BINS):
                    own = place == j
                    sums = torch.stack(
                        (own.double().sum(), confidence[own].sum(), right[own].sum())
                    )
                    torch.testing.assert_close(found.bins[b, i, j], sums)
    parts = [prior_grid_scores(logits[k], target[k], log_prior) for k in (slice(20), slice(20, 60))]
    for whole, one, other in zip(found, *parts):
        torch.testing.assert_close(one + other, whole)


def test_a_weight_of_0_is_the_calibration_without_a_prior():
    logits, target, log_prior = problem()
    found = prior_grid_scores(logits, target, log_prior)
    torch.testing.assert_close(found.nll[0], grid_nll(logits, target))
    torch.testing.assert_close(found.bins[0], grid_bins(logits, target))
    assert calibration_error(found.bins[2, 48]) != calibration_error(found.bins[0, 48])


@pytest.mark.parametrize("scale, weight", [(3.3, 0.6), (1.5, 0.9), (5.0, 0.0), (2.0, 1.0)])
def test_scale_and_weight_of_the_data_are_found(scale, weight):
    logits, _, log_prior = problem(20_000)
    shares = torch.softmax(scale * logits + weight * log_prior, dim=1)
    target = torch.multinomial(shares, 1, generator=torch.Generator().manual_seed(1)).squeeze(1)
    sums = prior_grid_scores(logits, target, log_prior).nll
    found = lowest_pair(kept_sums(sums))
    assert found[0] == pytest.approx(scale, rel=0.07) and found[1] == pytest.approx(
        weight, abs=0.06
    )
    assert 0 <= found[1] <= 1

    def nll(scale, weight):
        lprobs = torch.log_softmax(scale * logits + weight * log_prior, dim=1)
        return -lprobs.gather(1, target.unsqueeze(1)).sum().item()

    # at least as likely as any point of the grid, and nearly as any point at all
    fine = [nll(scale * 1.01**i, weight + j / 50) for i in range(-4, 5) for j in range(-3, 4)]
    assert nll(*found) <= sums.min().item() + 0.001 * len(target)
    assert nll(*found) <= min(fine) + 0.001 * len(target) if 0 < weight < 1 else True
    assert lowest_sum(sums) == pytest.approx(nll(*found), abs=0.002 * len(target))
    # beside a scale that is given: between two of the grid
    given = 1.3 * scale
    best = min(range(101), key=lambda j: nll(given, j / 100)) / 100
    assert lowest_weight(kept_sums(sums), given) == pytest.approx(best, abs=0.04)


def test_the_lowest_sum_between_weights_is_0_at_least():
    """The parabola through 1, 0.01 and 0.5 goes below 0, which a likelihood cannot."""
    sums = torch.tensor([2, 1, 0.01, 0.5, 2]).unsqueeze(1).expand(-1, len(FINE_GRID))
    assert lowest_sum(sums) == 0
    assert lowest_sum(sums + 1) == pytest.approx(1 - 0.0112, abs=1e-3)


def test_what_is_logged_is_at_the_likeliest_scale_and_weight():
    logits, noise, log_prior = problem(20_000)
    shares = torch.softmax(5 * logits + 0.75 * log_prior, dim=1)
    target = torch.multinomial(shares, 1, generator=torch.Generator().manual_seed(1)).squeeze(1)
    target[::5] = noise[::5]  # what no temperature makes calibrated
    scores = prior_grid_scores(logits, target, log_prior)

    def error(weight):  # at its likeliest scale, by the definition
        place = lowest_fine(scores.nll[WEIGHTS.index(weight)])[0]
        scale = float(FINE_GRID[0]) * 2 ** (place / 8)
        confidence, found = torch.softmax(scale * logits + weight * log_prior, dim=1).max(dim=1)
        right, interval = found.eq(target), (confidence * BINS).long()
        gaps = [
            (confidence[own].sum() - right[own].sum()).abs()
            for own in (interval == i for i in range(BINS))
        ]
        return 100 * float(sum(gaps)) / len(target)

    halves = [(logits[:10_000], target[:10_000]), (logits[10_000:], target[10_000:])]
    with metrics.aggregate(new_root=True) as aggregator:
        for half in halves:
            found = prior_grid_scores(*half, log_prior)
            log = {"ntokens": 10_000, "sample_size": 10_000, "validated": 10_000}
            log_means([{**log, "nll_grid": found.nll, "bins": found.bins}], has_concentration=False)
    values = aggregator.get_smoothed_values()

    def bits(scale, weight):
        loss = torch.nn.functional.cross_entropy(scale * logits + weight * log_prior, target)
        return loss.item() / math.log(2)

    near, weight = lowest_pair(kept_sums(scores.nll))
    lowest = min(bits(near * 1.02**i, weight + j / 50) for i in range(-5, 6) for j in range(-5, 6))
    assert values["nll_loss"] == pytest.approx(lowest, abs=1e-3)
    assert values["ppl"] == pytest.approx(2**lowest, rel=1e-3)
    assert min(bits(near * 1.02**i, 0) for i in range(-40, 41)) > lowest + 0.01
    assert values["prior_weight"] == pytest.approx(weight, abs=5e-4)
    likeliest = min(WEIGHTS, key=lambda x: scores.nll[WEIGHTS.index(x)].min())
    assert likeliest > 0 and abs(weight - likeliest) < 0.13
    assert values["ece"] == pytest.approx(error(likeliest), abs=0.2)
    others = [error(x) for x in WEIGHTS if x != likeliest]
    assert min(abs(x - error(likeliest)) for x in others) > 0.5, (error(likeliest), others)
    assert fitted_error(scores.nll, scores.bins) == pytest.approx(values["ece"] / 100, abs=1e-4)


def test_a_scale_beyond_the_grid_takes_its_end():
    sums = kept_sums(prior_grid_scores(*problem()).nll)
    for far, near in ((1e-6, GRID[0]), (1e9, GRID[-1])):
        assert lowest_weight(sums, far) == lowest_weight(sums, near)


def test_sums_are_kept_and_read_by_a_table_without_a_prior():
    logits, target, log_prior = problem()
    found = prior_grid_scores(logits, target, log_prior)
    calibration = PriorCalibration()
    assert calibration.best() is None and calibration.weight() == calibration.weight(2.0) == 0
    calibration.add(found.nll, 300)
    again = PriorCalibration()
    again.load(calibration.state())
    assert (again.best(), again.weight()) == lowest_pair(kept_sums(found.nll))
    surer = logits.argmax(dim=1)
    surer[:60] = 4  # a frequent word
    again.add(prior_grid_scores(logits, surer, log_prior).nll, 300)
    assert (
        (again.best(), again.weight())
        == lowest_pair(again.sums)
        != lowest_pair(kept_sums(found.nll))
    )
    again.load(calibration.state())
    assert (again.best(), again.weight()) == lowest_pair(kept_sums(found.nll))
    assert again.weight(2.0) == lowest_weight(kept_sums(found.nll), 2.0)
    with pytest.raises(ValueError, match="must have 186 numbers, but has shape .38,."):
        again.load(without_prior(calibration.state()))
    plain = without_prior(calibration.state())
    assert plain[0] == 300 and plain[1:].equal(kept_sums(found.nll[0]))
    assert without_prior(plain).equal(plain)
    calibration.reset()
    assert calibration.best() is None and calibration.sums.eq(0).all()


# ---- a table -------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [1.0, 2.0, "each"])
@pytest.mark.parametrize("score", SCORES)
def test_probabilities_follow_the_formula(score, temperature):
    table, hidden = large_table(score, scale=3.0)
    if temperature == "each":
        temperature = torch.linspace(0.5, 3, 20).unsqueeze(1)
    plain = table.scores(hidden, temperature)
    give_prior(table)
    assert table.prior_weight == pytest.approx(PRIOR_WEIGHT)
    shares = torch.tensor(shares_by_hand(table.prior.counts.tolist(), table.emittable.tolist()))
    logits = plain + PRIOR_WEIGHT * shares.log().clamp(min=-1e9) / temperature
    expected = torch.log_softmax(logits.masked_fill(~table.emittable, -torch.inf), dim=1)
    torch.testing.assert_close(table.log_probs(hidden, temperature), expected, atol=1e-5, rtol=1e-5)
    index = torch.arange(4, 24)
    own = expected.gather(1, index.unsqueeze(1)).squeeze(1)
    torch.testing.assert_close(table.log_prob_of(hidden, index, temperature), own)
    # at another scale than its own it is what a loss reads, which has no prior
    torch.testing.assert_close(
        table.log_prob_of(hidden, index, scale=3.0),
        torch.log_softmax(large_table(score, scale=3.0)[0].scores(hidden), 1)[range(20), index],
    )


def test_without_counts_or_a_calibration_nothing_changes():
    table, hidden = large_table(scale=3.0)
    plain = table.log_probs(hidden)
    counts = give_prior(table).prior.counts
    able = table.emittable
    assert (table.log_probs(hidden) - plain)[:, able].abs().max() > 0.1
    kept = counts.clone()
    counts.zero_()
    torch.testing.assert_close(table.log_probs(hidden), plain)
    counts.copy_(kept)
    table.calibration.reset()
    assert table.log_probs(hidden).equal(plain)


def test_validation_fits_both():
    table, hidden = large_table("cosine")
    hidden, target = hidden.repeat(5, 1), torch.arange(4, 104)
    plain = table.validate(hidden, target)
    give_prior(table).calibration.reset()
    found = table.validate(hidden, target)
    assert found.nll.shape == (5, len(FINE_GRID))
    assert found.bins.shape == (5, len(FINE_GRID), BINS, 3)
    torch.testing.assert_close(found.nll[0], plain.nll, rtol=1e-5, atol=1e-3)
    assert found.correct == plain.correct
    scale, weight = lowest_pair(kept_sums(found.nll))
    assert (table.scale, table.prior_weight) == (scale, weight)
    table.fixed_scale = 2.0
    assert table.scale == 2 and table.prior_weight == lowest_weight(kept_sums(found.nll), 2.0)


def tables():
    dictionary = make_dictionary(300, padding_words=4)
    rows = make_rows(dictionary)
    return {
        "frozen": make_table(words=300, padding_words=4)[0],
        "kept": KeptTable(rows, dictionary, "cosine", on_cpu=True),
        "file": KeptTable(rows, dictionary, "cosine", in_file=torch.zeros(16)),
        "learned": LearnedTable(torch.nn.Parameter(rows), dictionary, "cosine"),
    }


@pytest.mark.parametrize("name", tables())
def test_counts_are_part_of_the_state_with_a_prior_alone(name):
    plain, table = tables()[name], give_prior(tables()[name])
    before = plain.state_dict()
    assert not any("prior" in key for key in before)
    state = table.state_dict()
    assert {*state} == {*before, "prior._extra_state"}
    again = tables()[name]
    again.add_prior()
    again.load_state_dict(state, strict=True)
    assert again.prior.counts.equal(table.prior.counts) and again.prior.counts.any()
    assert again.scale == table.scale == pytest.approx(9)
    assert again.prior_weight == table.prior_weight == pytest.approx(PRIOR_WEIGHT)
    # left out by --model-overrides: the scale that is likeliest without
    plain.load_state_dict(state, strict=True)
    assert plain.scale == pytest.approx(9) and plain.prior_weight == 0
    with pytest.raises(ValueError, match="--unigram-prior needs the counts .* has none"):
        again.load_state_dict(before, strict=True)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_and_averages_keep_the_counts(dtype):
    table = give_prior(make_table(words=300)[0])
    table.prior.counts[7] = 12_345_677  # no number of 16 bits
    counts, weight = table.prior.counts.clone(), table.prior_weight
    half = copy.deepcopy(table).to(dtype)
    assert half.prior.counts.equal(counts) and half.weight.dtype == dtype
    # as fairseq's average_checkpoints.py, and --store-ema's float32
    states = [half.state_dict() for _ in range(3)]
    mean = {name: sum(state[name].float() for state in states) / 3 for name in states[0]}
    table.prior.counts.zero_()
    table.load_state_dict(mean, strict=True)
    assert table.prior.counts.equal(counts) and table.prior_weight == pytest.approx(weight)


def test_kinds_of_shares_are_told_apart():
    counts, emittable = torch.tensor([0, 0, 4, 1, 9, 0]), torch.ones(6, dtype=torch.bool)
    priors = {kind: UnigramPrior(emittable, kind) for kind in KINDS}
    for kind, prior in priors.items():
        prior.counts.copy_(counts)
        logs = unigram_shares(counts, emittable, kind).log().float()
        torch.testing.assert_close(prior.log_shares(), logs)
        again = UnigramPrior(emittable, kind)
        again.set_extra_state(prior.get_extra_state())
        assert again.counts.equal(counts)
    assert priors["seen"].log_shares()[[2, 3, 4]].unique().numel() == 1
    for kind, other in (KINDS, KINDS[::-1]):
        message = f"--unigram-prior must be {other}, .* but is {kind}; give it so, or train"
        with pytest.raises(ValueError, match=message):
            priors[kind].set_extra_state(priors[other].get_extra_state())


def test_counts_of_another_dictionary_are_refused():
    prior = give_prior(make_table(words=300)[0]).prior
    with pytest.raises(ValueError, match=r"must be of the 304 symbols .* shape \(5,\); give"):
        prior.set_extra_state(torch.zeros(5))


def test_a_training_that_begins_anew_counts_anew():
    prior = give_prior(make_table()[0]).prior
    prior.counts.zero_()
    tokens = torch.tensor([5, 5, 2])
    for update in (0, 0, 1):  # two batches of the first update
        prior.set_num_updates(update)
        prior.observe(tokens)
    assert prior.counts[5] == 6 and prior.counts[2] == 3 and prior.counts.sum() == 9
    state = prior.get_extra_state()
    for update, kept in ((7, 9), (0, 0)):  # a training goes on; --finetune-from-model
        prior.set_num_updates(7)  # fairseq calls it before it loads, too
        prior.set_extra_state(state)
        prior.set_num_updates(update)
        assert prior.counts.sum() == kept


def test_what_depends_on_counts_is_made_again():
    table, hidden = large_table(scale=3.0)
    first = give_prior(table).log_probs(hidden)
    assert table.log_prior().data_ptr() == table.log_prior().data_ptr()  # kept
    table.prior.observe(torch.full((500,), 50))
    second = table.log_probs(hidden)
    assert (second[:, 50] > first[:, 50] + 0.5).all()


@pytest.mark.parametrize("weight", [0.25, 1.0])
def test_further_coordinates_count_the_prior(weight):
    torch.manual_seed(0)
    rows = torch.nn.functional.normalize(torch.randn(40, 6), dim=1)
    query, log_prior = 9 * torch.randn(5, 6), -12 * torch.rand(40)
    beside, half = half_circle(log_prior)
    longer = torch.cat((rows, beside), dim=1)
    torch.testing.assert_close(longer.norm(dim=1), torch.full((40,), math.sqrt(2)))
    queries = torch.cat((query, torch.tensor([[weight * half, 0.0]]).expand(5, 2)), dim=1)
    difference = queries @ longer.t() - (query @ rows.t() + weight * log_prior)
    torch.testing.assert_close(difference, difference[:, :1].expand(5, 40), atol=1e-4, rtol=0)
    even, half = half_circle(torch.full((3,), -2.0))
    assert half == 0 and even.equal(torch.tensor([[0.0, 1.0]]).expand(3, 2))
