"""Searches of a learned table, whose rows change between validations."""

import pytest
import torch
from searching import FOUND, WHOLE, WORDS, large_table, learned_from, whole

from fairseq_contout.scores import make_query
from fairseq_contout.search_options import make_searcher


@pytest.mark.parametrize("name", WHOLE)
def test_what_is_kept_of_learned_rows_has_no_graph(name):
    searcher = make_searcher(whole(name), learned_from(large_table()[0]).eval())
    searcher.refresh()  # as benchmarks do, outside of a search
    kept = [searcher._rows] if name in ("bfloat16", "int8") else []
    kept = kept or [searcher._frequent_rows, searcher.normalizer.rows]
    kept += [part for rows in kept for part in getattr(rows, "__dict__", {}).values()]
    assert not any(getattr(rows, "requires_grad", False) for rows in kept)


def test_rows_that_an_optimizer_of_fairseqs_changed_are_noticed():
    """It writes into .data, which torch's count of versions does not see."""
    frozen, hidden = large_table(scale=3.0)
    table = learned_from(frozen).eval()
    searcher = make_searcher(whole("ivf"), table)
    query = make_query(hidden, "cosine", 3.0)
    searcher.search(query, FOUND)
    table.train()
    assert table._kept is None
    table.weight.data.copy_(table.weight.data.flip(0))
    table.eval()
    logits = table.scores(hidden)[:, table.num_specials :]
    expected = logits.topk(FOUND, dim=1).indices + table.num_specials
    assert torch.equal(searcher.search(query, FOUND).indices, expected)


@pytest.mark.parametrize("ema", [None, 0.5])
def test_a_learned_table_normalises_its_rows_once(ema, monkeypatch):
    frozen, hidden = large_table()
    table = learned_from(frozen)
    if ema is not None:
        table.ema = ema
        table.register_buffer("average", table.weight.detach().clone())
    normalised = []
    normalize = torch.nn.functional.normalize

    def count(rows, **options):
        normalised.append(len(rows))
        return normalize(rows, **options)

    monkeypatch.setattr("fairseq_contout.learned_table.F.normalize", count)
    table.eval()
    with torch.no_grad():
        for _ in range(3):
            table.candidates(hidden, 5)
            table.log_probs(hidden)
    assert sum(size == WORDS + 8 for size in normalised) == 1
    before = table.rows().detach().clone()
    # fairseq's optimizers write into .data, which torch's count of versions does not see
    table.train()
    (table.average if ema is not None else table.weight).data.copy_(-table.weight.data)
    table.eval()
    with torch.no_grad():
        torch.testing.assert_close(table.rows(), -before)
        found = table.candidates(hidden, 5)
    torch.testing.assert_close(found.log_probs, table.log_probs(hidden).gather(1, found.indices))


def test_a_learned_table_keeps_no_rows_where_gradients_flow():
    table = learned_from(large_table()[0])
    table.eval()
    with torch.no_grad():
        table.rows()
    assert table.rows().requires_grad
    assert "_kept" not in "".join(table.state_dict())
    table.double()
    with torch.no_grad():
        assert table.rows().dtype == torch.float64
