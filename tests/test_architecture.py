"""An import never goes up a floor, and files stay small enough to read in one go."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "fairseq_contout"
FLOORS = {
    "vmf": 0, "vmf_series": 0, "losses": 0, "scores": 0, "calibration": 0, "table_file": 0,
    "compat": 0, "messages": 0, "symbols": 0, "prior": 0, "prior_calibration": 0, "scale_grid": 0,
    "sampling": 0, "dispersion": 0, "files": 0, "lexicon_file": 0,
    "target_table": 1, "learned_table": 1, "kept_table": 1, "knn": 1, "searchers": 1,
    "search_options": 1, "candidates": 1, "approximate": 1, "faiss_index": 1, "shortlist": 1,
    "candidate_lists": 1,
    "generator": 2, "contextual": 2,
    "criterions": 3, "models": 3, "tasks": 3, "optim": 3,
    "": 4,
}  # fmt: skip
FILES = sorted(PACKAGE.rglob("*.py"))


def imported(path):
    """Yield the parts of fairseq_contout that a file imports, '' for the package itself."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            parts = name.split(".")
            if parts[0] == "fairseq_contout":
                yield parts[1] if len(parts) > 1 and parts[1] in FLOORS else ""


def part_of(path):
    relative = path.relative_to(PACKAGE)
    return "" if relative.name == "__init__.py" and len(relative.parts) == 1 else relative.parts[
        0
    ].removesuffix(".py")  # fmt: skip


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_down(path):
    floor = FLOORS[part_of(path)]
    for part in imported(path):
        assert FLOORS[part] <= floor, f"{path.name} on floor {floor} imports {part}"


def test_only_the_glue_knows_fairseq():
    for path in FILES:
        text = path.read_text(encoding="utf-8")
        if FLOORS[part_of(path)] <= 1 and part_of(path) != "compat":
            modules = {
                node.module if isinstance(node, ast.ImportFrom) else node.names[0].name
                for node in ast.walk(ast.parse(text))
                if isinstance(node, (ast.Import, ast.ImportFrom))
            }
            assert not any(m.split(".")[0] == "fairseq" for m in modules), path.name


@pytest.mark.parametrize("path", sorted((ROOT / "preprocess").glob("*.py")), ids=lambda p: p.name)
def test_scripts_import_the_lower_floors(path):
    assert all(FLOORS[part] <= 1 for part in imported(path))


def test_files_are_small():
    files = [*FILES, *(ROOT / "preprocess").glob("*.py")]
    long = [path.name for path in files if len(path.read_text().splitlines()) > 300]
    assert len(files) > 20 and long == []
