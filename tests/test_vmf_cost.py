"""benchmarks/vmf_cost.py, on few values: its rows, its errors against mpmath, and bad options."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benchmarks"))

import vmf_cost  # noqa: E402


@pytest.fixture
def call(monkeypatch):
    """Run the script in this process; it may neither start itself anew nor keep its threads."""
    threads = torch.get_num_threads()
    for name, value in vmf_cost.MALLOC.items():
        monkeypatch.setenv(name, value)

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["vmf_cost.py", *map(str, arguments)])
        return vmf_cost.main()

    yield run
    torch.set_num_threads(threads)


def test_rows(call, tmp_path, capsys):
    pytest.importorskip("scipy")
    files = tmp_path / "rows.json", tmp_path / "rows.png"
    sizes = "--dims", 300, 16, "--values", 40, "--repeats", 2, "--sample", 6, "--threads", 1
    call(*sizes, "--json", files[0], "--plot", files[1])
    rows = json.loads(files[0].read_text())
    methods = ["scipy", "ours", "ours float32"] + ["ours cuda"] * torch.cuda.is_available()
    assert [(row["dim"], row["method"]) for row in rows] == [
        (dim, method) for dim in (300, 16) for method in methods
    ]
    bounds = {"scipy": 1e-9, "ours": 1e-12, "ours float32": 3e-7, "ours cuda": 1e-12}
    for row in rows:
        assert row["vocab"] is None and row["values"] == 40 and row["threads"] == 1
        assert row["seconds"] > 0 and row["ratio"] > 0
        assert row["peak_bytes"] >= 2 * 4 * 40  # two results of float32
        assert 0 < row["max_relative_error"] <= bounds[row["method"]]
        assert row["method"] != "scipy" or row["ratio"] == 1
    assert capsys.readouterr().out.count("ours float32") == 2
    assert files[1].read_bytes().startswith(b"\x89PNG")


def test_results_that_are_wrong_or_not_finite_show():
    kappas = np.array([20.0, 30.0])
    exact = vmf_cost.Ours(kappas, 16).results()
    assert vmf_cost.worst_error(exact, 16, 2) < 1e-14
    for i in (1, 2):
        wrong = list(exact)
        wrong[i] = wrong[i] * (1 + 1e-6)
        assert 5e-7 < vmf_cost.worst_error(wrong, 16, 2) < 2e-6
        wrong[i] = np.array([wrong[i][0], np.nan])
        assert vmf_cost.worst_error(wrong, 16, 2) is None


@pytest.mark.parametrize(
    ("option", "bad", "least"),
    [
        ("--dims", "1", 2),
        ("--dims", "2.5", 2),
        ("--values", "0", 1),
        ("--repeats", "-1", 1),
        ("--threads", "none", 1),
        ("--sample", "0", 1),
    ],
)
def test_bad_options_are_refused(call, capsys, option, bad, least):
    with pytest.raises(SystemExit):
        call(f"{option}={bad}")
    message = capsys.readouterr().err.splitlines()[-1]
    assert f"argument {option}: must be an integer of at least {least}, but is '{bad}'" in message


def test_missing_scipy_is_named(call, monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy", None)
    with pytest.raises(SystemExit, match=r"error: scipy is missing; install it: pip install"):
        call("--values", 3)
