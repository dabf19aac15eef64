"""Criterion ``hybrid``: cross-entropy over the table, ReWE, and near-synonyms that cost less."""

from argparse import Namespace

import pytest
import torch
import torch.nn.functional as F
from factory import (
    FakeTask,
    make_batch,
    make_criterion,
    make_dictionary,
    make_learned_model,
    make_model,
    make_rows,
)
from fairseq.criterions import build_criterion
from fairseq.data import Dictionary

from fairseq_contout.criterions.base import TASK_MARK
from fairseq_contout.criterions.hybrid import HYBRID_LOSSES
from fairseq_contout.criterions.margin import informative_margin
from fairseq_contout.learned_table import LearnedTable
from fairseq_contout.losses import (
    contrastive_loss,
    cosine_loss,
    l2_loss,
    margin_loss,
    neighbour_term,
    power_spherical_loss,
    synthetic_negative,
    vmf_authors_loss,
    vmf_loss,
)
from fairseq_contout.target_table import TargetTable, normalize_rows, save_table

#: cross-entropy alone
PLAIN = {"hybrid_weight": 0.0, "neighbour_smoothing": 0.0}


@pytest.fixture
def dictionary():
    return make_dictionary()


def make_hybrid(dictionary, **options):
    """Return the criterion after a training that has had every word as a target."""
    criterion = make_criterion("hybrid", dictionary, **{**PLAIN, **options})
    if criterion.cfg.neighbour_smoothing:
        criterion.observed.fill_(True)
    return criterion


def by_token(model, sample, dictionary, **given):
    """Losses of the tokens, and what they are of: hidden vectors, tokens, the table."""
    criterion = make_hybrid(dictionary, **given)
    real = sample["target"].ne(dictionary.pad())
    losses = criterion(model, sample, reduce=False)[0][real]
    table = model.decoder.continuous_output.table
    return losses, model(**sample["net_input"])[0][real], sample["target"][real], table


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_alone_it_is_a_softmax_over_the_table(smoothing, tmp_path, dictionary):
    model, sample = make_model(tmp_path, dictionary, "hybrid"), make_batch(dictionary)
    losses, hidden, target, table = by_token(model, sample, dictionary, label_smoothing=smoothing)
    allowed = table.emittable.nonzero().squeeze(1)
    logits = 16 * F.normalize(hidden, dim=1) @ table.weight[allowed].t()
    own = torch.tensor([allowed.tolist().index(w) for w in target])
    expected = F.cross_entropy(logits, own, label_smoothing=smoothing, reduction="none")
    torch.testing.assert_close(losses, expected)


#: each loss beside the cross-entropy, of predictions and their rows
OF_ROWS = {
    "cosine": cosine_loss,
    "l2": l2_loss,
    "power_spherical": power_spherical_loss,
    "syn_margin": lambda h, e: margin_loss(h, e, synthetic_negative(h, e)),
    "vmf": vmf_loss,
    "vmf_authors": vmf_authors_loss,
}


@pytest.mark.parametrize("name", sorted(HYBRID_LOSSES))
def test_a_loss_on_embeddings_is_added(name, tmp_path, dictionary):
    model, sample = make_model(tmp_path, dictionary, "hybrid"), make_batch(dictionary)
    alone, _, _, _ = by_token(model, sample, dictionary)
    both, hidden, target, table = by_token(
        model, sample, dictionary, hybrid_loss=name, hybrid_weight=0.7
    )
    if name == "margin":  # it looks for its negative in the table
        added = informative_margin(hidden, target, table)
    else:
        added = OF_ROWS[name](hidden, table.rows(target))
    torch.testing.assert_close(both, alone + 0.7 * added)
    assert added.abs().sum() > 0


def test_neighbours_by_hand(tmp_path, dictionary):
    model, sample = make_model(tmp_path, dictionary, "hybrid"), make_batch(dictionary)
    alone, hidden, target, table = by_token(model, sample, dictionary)
    options = {"neighbour_smoothing": 0.3, "neighbours": 4, "neighbour_temperature": 0.5}
    smoothed, _, _, _ = by_token(model, sample, dictionary, **options)
    logits = table.logits_of(hidden, torch.arange(len(dictionary)), 16.0)
    expected = []
    for loss, row, w in zip(alone, logits, target.tolist()):
        if w < dictionary.nspecial:  # </s>
            expected.append(loss)
            continue
        others = [v for v in range(dictionary.nspecial, len(dictionary)) if v != w]
        assert table.emittable[others].all()
        cosines = {v: float(table.weight[v] @ table.weight[w]) for v in others}
        near = sorted(others, key=cosines.get)[-4:]
        shares = torch.softmax(torch.tensor([cosines[v] / 0.5 for v in near]), dim=0)
        expected.append(loss + 0.3 * (row[w] - (shares * row[near]).sum()))
    torch.testing.assert_close(smoothed, torch.stack(expected))
    assert target.eq(dictionary.eos()).any() and not smoothed.equal(alone)


def test_neighbours_stay_while_a_table_learns(tmp_path, dictionary):
    """A learned table that began with the file moves; whose neighbours they are does not."""
    path, rows = str(tmp_path / "start.safetensors"), make_rows(dictionary, 16)
    save_table(path, rows, dictionary, source="random", origins={"random": len(rows)})
    model, _ = make_learned_model(dictionary, criterion="hybrid", table_init=path)
    table = model.decoder.continuous_output.table
    options = {"neighbour_smoothing": 0.3, "neighbours": 3, "neighbour_table": path}
    criterion = make_hybrid(dictionary, **options)
    words = torch.arange(dictionary.nspecial, len(dictionary))
    before, rows = criterion._neighbours(words, table), table.rows(words).clone()
    torch.testing.assert_close(criterion.neighbour_rows[words], rows)
    optimizer = torch.optim.Adam([*model.parameters(), *criterion.parameters()], lr=0.05)
    for update in range(3):
        optimizer.zero_grad()
        criterion(model, make_batch(dictionary, seed=update))[0].backward()
        optimizer.step()
    assert (table.rows(words) - rows).norm(dim=1).min() > 0.1
    torch.testing.assert_close(criterion._neighbours(words, table), before)
    torch.testing.assert_close(criterion.neighbour_rows[words], rows)


def test_term_is_a_change_of_the_target_distribution():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 7, dtype=torch.float64, generator=generator).requires_grad_()
    target, near = torch.tensor([0, 2, 6]), torch.tensor([[1, 2], [0, 1], [3, 4]])
    shares = torch.tensor([[0.5, 0.5], [0.9, 0.1], [0.2, 0.8]], dtype=torch.float64)
    wanted = torch.zeros(3, 7, dtype=torch.float64)
    wanted.scatter_(1, near, 0.25 * shares)
    wanted[range(3), target] += 0.75
    expected = -(wanted * torch.log_softmax(logits, dim=1)).sum(dim=1)
    plain = contrastive_loss(logits, target, torch.zeros(7, dtype=torch.float64))
    found = plain + 0.25 * neighbour_term(logits, target, near, shares)
    torch.testing.assert_close(found, expected)
    assert torch.autograd.gradcheck(lambda x: neighbour_term(x, target, near, shares), (logits,))


def synonyms(tmp_path):
    """A fixed table in which marvellous is near wonderful, and badger far from both."""
    words = ["marvellous", "wonderful", "badger", "of", "the", "walked"]
    dictionary = Dictionary()
    for word in words:
        dictionary.add_symbol(word)
    rows = make_rows(dictionary, dim=8, seed=3)
    index = {word: dictionary.index(word) for word in words}
    rows[index["wonderful"]] = rows[index["marvellous"]] + 0.3 * rows[index["wonderful"]]
    rows = normalize_rows(rows)
    save_table(tmp_path / "fixed.st", rows, dictionary, source="hand", origins={"hand": len(rows)})
    return dictionary, index, rows


def test_wonderful_for_marvellous_costs_less_than_badger(tmp_path):
    dictionary, index, _ = synonyms(tmp_path)
    # predictions over another, learned table, in which the three words are equally far apart
    weight = torch.nn.Parameter(torch.eye(len(dictionary)))
    table = LearnedTable(weight, dictionary, "cosine")
    target = torch.full((2,), index["marvellous"])
    hidden = 0.5 * table.rows(target)
    hidden = hidden + table.rows(torch.tensor([index["wonderful"], index["badger"]]))

    def cost(**given):
        criterion = make_hybrid(dictionary, **given)
        return criterion.token_losses(hidden, target, table).tolist()

    synonym, animal = cost()
    assert synonym == pytest.approx(animal)  # likelihood sees two errors of one size
    fixed = {"neighbour_table": str(tmp_path / "fixed.st"), "neighbours": 3}
    synonym, animal = cost(neighbour_smoothing=0.2, **fixed)
    assert synonym < animal - 0.5


def test_equal_rows_do_not_push_a_word_among_its_neighbours(tmp_path):
    dictionary, index, rows = synonyms(tmp_path)
    rows[index["badger"]] = rows[index["of"]] = rows[index["marvellous"]]
    table = TargetTable(rows, dictionary, "cosine")
    criterion = make_hybrid(dictionary, neighbours=1, neighbour_smoothing=0.1)
    target = torch.tensor([index[w] for w in ("badger", "of", "marvellous")])
    found, shares = criterion._neighbours(target, table)
    assert found.shape == (3, 1) and shares.eq(1).all()
    assert not found.squeeze(1).eq(target).any()


SMOOTHED = {**PLAIN, "neighbours": 4, "neighbour_smoothing": 0.3}


def test_neighbours_were_targets_of_the_training(tmp_path, dictionary):
    """As words of a joined dictionary's other language never are; the batch's own words count."""
    table = make_model(tmp_path, dictionary, "hybrid").decoder.continuous_output.table
    criterion = make_criterion("hybrid", dictionary, **SMOOTHED)
    target, hidden = torch.arange(5, 20, 2), torch.randn(8, table.dim)
    unseen = torch.arange(dictionary.nspecial, len(dictionary))
    unseen = unseen[~torch.isin(unseen, target)]
    plain = make_criterion("hybrid", dictionary, **PLAIN).token_losses(hidden, target, table)
    criterion.eval()  # validation data tell nothing
    torch.testing.assert_close(criterion.token_losses(hidden, target, table), plain)
    assert not criterion.observed.any()
    criterion.train()
    first = criterion.token_losses(hidden, target, table)
    assert criterion.observed.nonzero().flatten().equal(target) and (first - plain).abs().min() > 0
    found, shares = criterion.eval()._neighbours(target, table)
    assert found.shape == (8, 4) and torch.isin(found, target).all()
    assert not found.eq(target.unsqueeze(1)).any()
    torch.testing.assert_close(shares.sum(dim=1), torch.ones(8))
    # of a word that never was one, too
    found = criterion._neighbours(unseen, table)[0]
    assert found.shape == (len(unseen), 4) and torch.isin(found, target).all()
    # both views of --r-drop and --consistency-weight
    criterion.train().pair_losses(hidden, hidden, unseen.repeat(2)[:8], table)
    assert criterion.observed[unseen[:8]].all()


def test_words_that_were_targets_go_with_a_checkpoint(tmp_path, dictionary):
    criterion = make_criterion("hybrid", dictionary, **SMOOTHED)
    criterion(make_model(tmp_path, dictionary, "hybrid"), make_batch(dictionary))
    again = make_criterion("hybrid", dictionary, **SMOOTHED)
    again.load_state_dict(criterion.half().state_dict())
    assert again.observed.equal(criterion.observed) and 0 < again.observed.sum() < len(dictionary)
    before = criterion.state_dict()  # a checkpoint of before they were kept
    del before["observed"]
    again.load_state_dict(before)
    assert "observed" not in make_criterion("hybrid", dictionary, **PLAIN).state_dict()


@pytest.mark.parametrize("words, neighbours", [(1, 0), (2, 1), (3, 2)])
def test_as_many_neighbours_as_there_are(words, neighbours, tmp_path, dictionary):
    table = make_model(tmp_path, dictionary, "hybrid").decoder.continuous_output.table
    criterion = make_criterion("hybrid", dictionary, **SMOOTHED)
    target = 5 + torch.arange(8) % words
    losses = criterion.token_losses(torch.randn(8, table.dim), target, table)
    assert losses.isfinite().all()
    assert criterion._neighbours(target, table)[0].shape == (8, neighbours)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"hybrid_weight": -1.0}, "--hybrid-weight must be 0 or more, but is -1"),
        ({"neighbour_smoothing": 0.95, "label_smoothing": 0.1}, "--neighbour-smoothing must be 0"),
        ({"neighbours": 0}, "--neighbours must be 1 or more"),
        ({"neighbour_temperature": 0.0}, "--neighbour-temperature must be greater than 0"),
        ({"neighbour_table": "no.st"}, "no.st: no such file"),
    ],
)
def test_options_out_of_range(options, message, dictionary):
    with pytest.raises(ValueError, match=message):
        make_criterion("hybrid", dictionary, **options)


def test_neighbours_need_a_table_that_does_not_move(dictionary):
    task = FakeTask(dictionary)
    setattr(task, TASK_MARK, "learned")  # as models set it
    config = Namespace(criterion="hybrid", sentence_avg=False, neighbour_smoothing=0.1)
    with pytest.raises(ValueError, match="is learned; give --neighbour-table FILE"):
        build_criterion(config, task)
