"""The table: file, scores, candidates, calibration."""

import json

import pytest
import torch
from factory import SCORES, make_dictionary, make_rows, make_table
from safetensors.torch import save_file

from fairseq_contout import target_table
from fairseq_contout.calibration import (
    _above_secants,
    grid_nll,
    kept_sums,
    lowest_between,
    lowest_point,
)
from fairseq_contout.prior_calibration import lowest_sum
from fairseq_contout.scale_grid import FINE_GRID, GRID
from fairseq_contout.target_table import (
    TargetTable,
    dictionary_signature,
    emittable_rows,
    load_table,
    read_table,
    save_table,
)


@pytest.fixture
def saved(tmp_path):
    dictionary = make_dictionary()
    path = tmp_path / "table.safetensors"
    save_table(path, make_rows(dictionary), dictionary, source="test", origins={"random": 24})
    return path, dictionary


def test_round_trip(saved):
    path, dictionary = saved
    torch.testing.assert_close(load_table(path, dictionary), make_rows(dictionary), rtol=0, atol=0)
    weight, metadata = read_table(path)
    assert metadata["signature"] == dictionary_signature(dictionary)
    assert json.loads(metadata["origins"]) == {"random": 24}
    assert (metadata["dim"], metadata["norm"], metadata["source"]) == ("8", "unit", "test")
    assert weight.shape == (24, 8)


def test_the_same_table_is_the_same_file(saved, tmp_path):
    path, dictionary = saved
    origins = {"random": 24}
    for number in range(8):  # safetensors alone would shuffle the metadata
        other = tmp_path / f"{number}.safetensors"
        save_table(other, make_rows(dictionary), dictionary, source="test", origins=origins)
        assert other.read_bytes() == path.read_bytes()


def test_signature_is_of_symbols_in_order():
    one, same, shuffled = make_dictionary(), make_dictionary(), make_dictionary()
    shuffled.symbols[5], shuffled.symbols[6] = shuffled.symbols[6], shuffled.symbols[5]
    assert dictionary_signature(one) == dictionary_signature(same)
    assert dictionary_signature(one) != dictionary_signature(shuffled)


def test_another_dictionary_is_refused_by_both_names(saved):
    path, dictionary = saved
    other = make_dictionary(21)
    with pytest.raises(ValueError) as error:
        load_table(path, other)
    message = str(error.value)
    assert dictionary_signature(dictionary)[:12] in message
    assert dictionary_signature(other)[:12] in message
    assert str(path) in message and "build_table.py" in message


def test_missing_truncated_and_foreign_files_are_refused(saved, tmp_path):
    path, dictionary = saved
    with pytest.raises(ValueError, match="no such file"):
        load_table(tmp_path / "none.safetensors", dictionary)
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(ValueError, match="not a whole safetensors file"):
        load_table(path, dictionary)
    path.write_text("w1 0.1 0.2\n")
    with pytest.raises(ValueError, match="not a whole safetensors file"):
        load_table(path, dictionary)
    save_file({"other": torch.zeros(2, 2)}, path)
    with pytest.raises(ValueError, match="must hold 'weight' and format_version"):
        load_table(path, dictionary)


@pytest.mark.parametrize(
    "spoil, message",
    [
        (lambda rows: rows[3].fill_(float("nan")), r"finite.*rows 3\)"),
        (lambda rows: rows[5].zero_(), r"no row may be zero.*rows 5\)"),
        (lambda rows: rows[7].mul_(2), r"norm 1.*row 7 is off by 1"),
    ],
)
def test_bad_rows_are_refused_when_saved_and_when_loaded(saved, spoil, message):
    path, dictionary = saved
    before = path.read_bytes()
    rows = make_rows(dictionary)
    spoil(rows)
    with pytest.raises(ValueError, match=message):
        save_table(path, rows, dictionary, source="test", origins={})
    assert path.read_bytes() == before  # the old file stays
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    _, metadata = read_table(path)
    save_file({"weight": rows}, path, metadata=metadata)
    with pytest.raises(ValueError, match=message):
        load_table(path, dictionary)


def test_wrong_number_of_rows_is_refused(saved):
    path, dictionary = saved
    with pytest.raises(ValueError, match=r"a row for each of the 24 symbols.*\(20, 8\)"):
        save_table(path, make_rows(dictionary)[:20], dictionary, source="test", origins={})
    with pytest.raises(ValueError, match="needs a row for each of the 24 symbols"):
        TargetTable(make_rows(dictionary)[:20], dictionary, "cosine")


@pytest.mark.parametrize("options", [{"score": "euclid"}, {"scale": 0.0}, {"scale": -1.0}])
def test_bad_options_are_refused(options):
    dictionary = make_dictionary()
    arguments = {"score": "cosine", "scale": None, **options}
    with pytest.raises(
        ValueError, match="--score must be one of|--scale must be a number greater than 0"
    ):
        TargetTable(make_rows(dictionary), dictionary, **arguments)


def test_only_real_words_and_eos_are_emitted():
    dictionary = make_dictionary(3, padding_words=2)
    dictionary.add_symbol("madeupword0007", n=4)  # a real word that looks like a padding word
    allowed = [s for s, ok in zip(dictionary.symbols, emittable_rows(dictionary)) if ok]
    assert allowed == ["</s>", "<unk>", "w0", "w1", "w2", "madeupword0007"]


def naive_logits(table, hidden, scale):
    """The scores' formulas, written down one by one."""
    rows = table.weight.double()
    hidden = hidden.double()
    kappa = hidden.norm(dim=1, keepdim=True)
    cosine = hidden @ rows.t() / kappa
    distance = (hidden.unsqueeze(1) - rows.unsqueeze(0)).pow(2).sum(dim=2)
    return (
        scale
        * {
            "dot": hidden @ rows.t(),
            "cosine": cosine,
            "l2": -distance / 2,
            "power_spherical": kappa * torch.log1p(cosine),
        }[table.score]
    )


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_log_probs_follow_the_formulas(score, temperature):
    table, _ = make_table(score, padding_words=4, scale=3.0)
    hidden = 2 * torch.randn(10, 8, generator=torch.Generator().manual_seed(3))
    expected = naive_logits(table, hidden, 3.0 / temperature)
    expected[:, ~table.emittable] = -torch.inf
    got = table.log_probs(hidden, temperature)
    torch.testing.assert_close(got.double(), expected.log_softmax(dim=1), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(got.exp().sum(dim=1), torch.ones(10))
    assert got[:, ~table.emittable].eq(-torch.inf).all()


@pytest.mark.parametrize("score", SCORES)
def test_candidates_are_the_best_of_the_whole_table(score):
    table, _ = make_table(score, padding_words=4, scale=3.0)
    hidden = torch.randn(10, 8, generator=torch.Generator().manual_seed(3))
    dense = table.log_probs(hidden)
    found = table.candidates(hidden, 6)
    assert found.log_probs.shape == (10, 10)
    torch.testing.assert_close(
        found.log_probs, dense.gather(1, found.indices), atol=1e-5, rtol=1e-5
    )
    assert torch.equal(found.indices[:, :4], torch.arange(4).expand(10, 4))
    best = dense[:, 4:].topk(6, dim=1).indices + 4
    assert torch.equal(found.indices[:, 4:], best)


def test_excluded_rows_are_replaced_by_the_next_nearest():
    table, _ = make_table("cosine")
    hidden = torch.randn(5, 8, generator=torch.Generator().manual_seed(3))
    dense = table.log_probs(hidden)
    order = dense[:, 4:].argsort(dim=1, descending=True) + 4
    excluded = torch.cat((order[:, :2], torch.tensor([[2]] * 5)), dim=1)  # two best words and </s>
    excluded[4] = -1
    found = table.candidates(hidden, 3, excluded=excluded)
    assert torch.equal(found.indices[:4, 4:], order[:4, 2:5])
    assert torch.equal(found.indices[4, 4:], order[4, :3])
    assert found.log_probs[:4, 2].eq(-torch.inf).all() and found.log_probs[4, 2] > -torch.inf
    torch.testing.assert_close(found.log_probs[:, 4:], dense.gather(1, found.indices[:, 4:]))


def test_log_prob_of_one_row():
    table, _ = make_table("power_spherical", padding_words=4)
    hidden = torch.randn(5, 8, generator=torch.Generator().manual_seed(3))
    tokens = torch.tensor([2, 4, 10, 23, 25])  # the last is a padding word
    expected = table.log_probs(hidden).gather(1, tokens.unsqueeze(1)).squeeze(1)
    torch.testing.assert_close(table.log_prob_of(hidden, tokens), expected)


def planted(scale, count=4000, words=30, dim=8):
    """Predictions whose targets are drawn from the softmax at a known scale."""
    table, _ = make_table("cosine", words, dim)
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(count, dim, generator=generator)
    probabilities = torch.softmax(scale * naive_logits(table, hidden, 1.0)[:, 2:], dim=1)
    return table, hidden, torch.multinomial(probabilities, 1, generator=generator).squeeze(1) + 2


@pytest.mark.parametrize("scale", [0.7, 5.0, 23.0])
def test_calibration_finds_the_scale_that_made_the_data(scale):
    table, hidden, target = planted(scale)
    assert table.scale == 16.0
    for part in torch.arange(len(target)).split(250):
        table.validate(hidden[part], target[part])
    assert table.scale == pytest.approx(scale, rel=0.15)


def test_calibration_agrees_with_a_second_optimiser():
    table, hidden, target = planted(9.0)
    for part in torch.arange(len(target)).split(250):
        table.validate(hidden[part], target[part])
    log_scale = torch.zeros((), requires_grad=True)
    optimizer = torch.optim.LBFGS([log_scale], max_iter=100, line_search_fn="strong_wolfe")
    logits = naive_logits(table, hidden, 1.0)[:, 2:]  # <s> and <pad> are never emitted

    def closure():
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(log_scale.exp() * logits, target - 2)
        loss.backward()
        return loss

    optimizer.step(closure)
    assert table.scale == pytest.approx(log_scale.exp().item(), rel=0.01)


def test_calibration_does_not_depend_on_batches():
    table, hidden, target = planted(5.0, count=250)
    table.validate(hidden, target)
    whole = table.calibration.state()
    table.calibration.reset()
    order = torch.randperm(250)
    for part in order.split(37):
        table.validate(hidden[part], target[part])
    torch.testing.assert_close(table.calibration.state(), whole, rtol=1e-5, atol=1e-3)


@pytest.fixture
def few_sampled(monkeypatch):
    """As where V is large: the least number of tokens of a batch, 256, calibrates the scale."""
    monkeypatch.setattr(target_table, "_CALIBRATION_ELEMENTS", 0)


def test_all_tokens_calibrate_a_small_table():
    table, hidden, target = planted(5.0, count=1500)
    found = table.validate(hidden, target)
    expected = grid_nll(naive_logits(table, hidden, 1.0)[:, 2:], target - 2)
    torch.testing.assert_close(found.nll[16:96], expected[16:96], rtol=1e-4, atol=0)
    assert table.calibration.tokens == 1500


def test_validation_counts_nearest_neighbours(few_sampled):
    table, hidden, target = planted(5.0, count=1500)
    found = table.validate(hidden, target)
    assert found.correct == table.log_probs(hidden).argmax(dim=1).eq(target).sum()
    drawn = torch.randperm(1500, generator=torch.Generator().manual_seed(1500))[:256]
    at_one = torch.nn.functional.nll_loss(
        torch.log_softmax(naive_logits(table, hidden, 1.0)[:, 2:], dim=1)[drawn],
        target[drawn] - 2,
        reduction="mean",
    )
    at_one = 1500 * at_one.item()  # the sample stands for the batch
    assert found.nll[FINE_GRID.tolist().index(1.0)].item() == pytest.approx(at_one, rel=1e-5)
    assert found.bins[:, :, 0].sum(dim=1).tolist() == pytest.approx([1500] * len(FINE_GRID))


def test_batches_count_by_their_tokens(few_sampled):
    """A batch of few tokens, which are hard, beside a large one: the perplexity is that of all."""
    table, hidden, target = planted(8.0, count=4200)
    generator = torch.Generator().manual_seed(5)
    noise = torch.randn(200, hidden.size(1), generator=generator)
    hidden[4000:] = noise  # predictions that know nothing
    for part in (slice(0, 4000), slice(4000, None)):
        table.validate(hidden[part], target[part])
    logits = naive_logits(table, hidden, 1.0)[:, 2:].double()
    exact = torch.stack(
        [torch.nn.functional.cross_entropy(scale * logits, target - 2) for scale in FINE_GRID]
    )
    assert table.calibration.tokens == 4200
    found = table.calibration.sums / 4200
    torch.testing.assert_close(found[10:20], kept_sums(exact)[10:20], rtol=0.03, atol=0)
    assert table.scale == pytest.approx(lowest_point(kept_sums(exact)), rel=0.05)
    # with equal weights it would be another scale
    equal = torch.stack(
        [
            sum(
                torch.nn.functional.cross_entropy(scale * logits[part], target[part] - 2)
                for part in (slice(0, 4000), slice(4000, None))
            )
            for scale in GRID
        ]
    )
    assert lowest_point(equal) < 0.8 * table.scale


def test_grid_sums_are_likelihoods_and_the_lowest_point_is_between_points():
    logits, target = torch.randn(20, 7), torch.randint(7, (20,))
    sums = grid_nll(logits, target)
    for i in (0, 12, 48, len(FINE_GRID) - 1):
        expected = torch.nn.functional.cross_entropy(
            FINE_GRID[i] * logits.double(), target, reduction="sum"
        )
        assert sums[i].item() == pytest.approx(expected.item(), rel=1e-4)
    parabola = (GRID.log() - torch.log(torch.tensor(7.3, dtype=torch.float64))).pow(2)
    assert lowest_point(parabola) == pytest.approx(7.3, rel=1e-6)
    assert lowest_point(GRID) == GRID[0] and lowest_point(-GRID) == GRID[-1]
    beside_the_end = (GRID.log2() + 5.4).square()
    assert lowest_point(beside_the_end) == pytest.approx(2**-5.4, rel=1e-6)


@pytest.mark.parametrize("scale", [0.9, 1.0, 1.13, 1.3, 13.0, 30.0])
def test_the_lowest_likelihood_is_that_of_the_best_scale(scale):
    """Sure predictions, some of them wrong, against a search over many scales."""
    generator = torch.Generator().manual_seed(round(10 * scale))
    logits = torch.randn(400, 50, generator=generator, dtype=torch.float64)
    chosen = torch.rand(400, generator=generator)
    target = logits.argsort(dim=1).flip(1)[torch.arange(400), (50 * chosen**6).long()]
    logits = logits * 3.6 / scale

    def nll(at):
        return torch.nn.functional.cross_entropy(at * logits, target, reduction="sum").item()

    fine = {at: nll(at) for at in (scale / 8 * 1.004**i for i in range(800))}
    best = min(fine, key=fine.get)
    assert min(fine) < best < max(fine)
    sums = kept_sums(grid_nll(logits, target))
    found = lowest_between(sums)[2]
    assert lowest_point(sums) == pytest.approx(best, rel=0.01)
    assert found / 400 == pytest.approx(fine[best] / 400, abs=0.004)
    assert nll(lowest_point(sums)) <= fine[best] * 1.0001


@pytest.mark.parametrize("words", [20, 6000])
@pytest.mark.parametrize("wrong", [0, 1, 5])
def test_sure_and_right_predictions_have_no_negative_loss(wrong, words):
    """The sums fall steeply and stay near 0, where a polynomial would go below it."""
    logits = torch.zeros(300, words)
    logits[:, 3] = 1
    target = torch.full((300,), 3)
    logits[:wrong, 4], target[:wrong] = 0.97, 4
    sums = grid_nll(logits, target)
    distinct = logits[[0, -1]].double()  # predictions: those that are wrong, and the others

    def nll(scale):
        lprobs = torch.log_softmax(scale * distinct, dim=1)
        return -(wrong * lprobs[0, 4 if wrong else 3] + (300 - wrong) * lprobs[1, 3]).item()

    fine = min(nll(2 ** (i / 50)) for i in range(-100, 600))
    for value in (lowest_between(kept_sums(sums))[2], lowest_sum(sums)):
        assert -1e-6 <= value <= kept_sums(sums).min()
    assert 0 <= lowest_sum(sums) == pytest.approx(fine, rel=0.04, abs=1e-6)
    # the scale, of the sums that are kept: what docs/decoding.md says of it
    best = min((2 ** (i / 50) for i in range(-100, 600)), key=nll)
    if wrong:
        assert lowest_point(kept_sums(sums)) == pytest.approx(best, rel=0.3)


@pytest.mark.parametrize("grid", [GRID, FINE_GRID])
def test_what_is_linear_in_the_scale_is_its_own_secant(grid):
    middle, steps = 40 if len(grid) > 60 else 15, torch.linspace(-1, 1, 9, dtype=torch.float64)
    at = grid[middle] * (grid[1] / grid[0]) ** steps
    below = torch.full_like(steps, -1e9)
    for reach in (1, 2, 5):
        window = 3 - 0.2 * grid[middle - reach : middle + reach + 1].double()
        found = _above_secants(below, steps, window, float(grid[1] / grid[0]))
        torch.testing.assert_close(found, 3 - 0.2 * at.double())
        assert _above_secants(below + 1e10, steps, window, 1.4).gt(1e9).all()


def test_state_keeps_rows_scale_and_signature():
    table, hidden, target = planted(5.0, count=250)
    table.validate(hidden, target)
    other, _ = make_table("cosine", 30, 8)
    other.weight.zero_()
    other.load_state_dict(table.state_dict())
    assert other.scale == table.scale
    assert torch.equal(other.weight, table.weight)
    half = make_table("cosine", 30, 8)[0].half()
    half.load_state_dict(table.state_dict())
    assert half.half().scale == table.scale  # half precision leaves calibration and signature alone
    assert torch.equal(half.signature, table.signature)


def test_state_of_another_dictionary_is_refused():
    table, _ = make_table("cosine")
    other_dictionary = make_dictionary()
    other_dictionary.symbols[6] = "changed"
    other = TargetTable(make_rows(other_dictionary), other_dictionary, "cosine")
    with pytest.raises(ValueError, match=dictionary_signature(other_dictionary)[:12]):
        other.load_state_dict(table.state_dict())
