"""Installation: --user-dir from a checkout and from anywhere, pins, and what is not in git."""

import os
import re
import subprocess
import sys
from pathlib import Path

import fairseq
import fairseq_cli
import pytest
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).resolve().parent.parent


def run(*command, cwd, **environment):
    return subprocess.run(
        command,
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )


def assert_plugin_is_found(cwd, **environment):
    """Parse a training's options as fairseq-train does; all of them need the plugin."""
    code = (
        "from fairseq import options; "
        "args = options.parse_args_and_arch(options.get_training_parser()); "
        "print('parsed', args.arch, args.knn, args.vmf_form, args.target_table)"
    )
    result = run(
        sys.executable, "-c", code, "data", "--user-dir", "fairseq_contout",
        "--arch", "continuous_lstm", "--task", "continuous_translation", "--knn", "7",
        "--criterion", "vmf", "--vmf-form", "authors", "--target-table", "t.safetensors",
        cwd=cwd, **environment,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-2000:]
    assert "parsed continuous_lstm 7 authors t.safetensors" in result.stdout


def test_user_dir_from_a_checkout():
    assert_plugin_is_found(ROOT, PYTHONPATH="")


def test_user_dir_from_any_folder_when_installed(tmp_path):
    """pip-installed beside fairseq, fairseq finds the plugin by its bare name."""
    site = tmp_path / "site-packages"
    result = run(
        sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation",
        "--target", str(site), str(copy_of_the_project(tmp_path)), cwd=tmp_path,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-2000:]
    parts = sorted(path.parent.name for path in site.glob("fairseq_contout/*/__init__.py"))
    assert parts == ["criterions", "models", "optim", "tasks"]
    # fairseq looks beside itself: give it a home in the same site-packages (real folders, since
    # the parent of a link is that of its target)
    for package in (fairseq, fairseq_cli):
        home = Path(package.__file__).parent
        (site / home.name).mkdir()
        for file in home.iterdir():
            (site / home.name / file.name).symlink_to(file)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    assert_plugin_is_found(elsewhere, PYTHONPATH=str(site))


def copy_of_the_project(tmp_path):
    """pip builds inside the folder that it installs: keep that out of the checkout."""
    import shutil

    copy = tmp_path / "project"
    copy.mkdir()
    for name in ("setup.py", "pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, copy)
    shutil.copytree(ROOT / "fairseq_contout", copy / "fairseq_contout")
    return copy


def test_import_prints_nothing(tmp_path):
    result = run(sys.executable, "-c", "import fairseq_contout", cwd=tmp_path, PYTHONPATH=str(ROOT))
    assert result.returncode == 0
    assert result.stdout == ""
    assert "fairseq_contout" not in result.stderr  # fairseq itself names an optional package


def requirements():
    """The requirements in setup.py, with extras."""
    import setuptools

    found = {}
    setuptools_setup, setuptools.setup = setuptools.setup, lambda **kwargs: found.update(kwargs)
    try:
        source = (ROOT / "setup.py").read_text()
        exec(compile(source, str(ROOT / "setup.py"), "exec"), {"__file__": str(ROOT / "setup.py")})
    finally:
        setuptools.setup = setuptools_setup
    lines = [*found["install_requires"], *found["extras_require"]["test"]]
    return [Requirement(line) for line in lines]


def pins():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return {
        r.name.lower().replace("_", "-"): Version(next(iter(r.specifier)).version)
        for r in map(Requirement, (line for line in lines if not line.startswith("#")))
    }


def test_fairseq_is_chosen_by_the_interpreter():
    chosen = {r.name: r for r in requirements() if r.name.startswith("fairseq")}
    for python, name in (("3.9", "fairseq"), ("3.10", "fairseq"), ("3.11", "fairseq-fixed")):
        fitting = [n for n, r in chosen.items() if r.marker.evaluate({"python_version": python})]
        assert fitting == [name], python
    assert str(chosen["fairseq-fixed"].specifier) == "==0.12.3.1"
    assert str(chosen["fairseq"].specifier) == "==0.12.2"


def test_pins_are_within_the_ranges():
    pinned = pins()
    for requirement in requirements():
        if requirement.marker is None or requirement.marker.evaluate({"python_version": "3.11"}):
            version = pinned[requirement.name.lower()]
            assert version in requirement.specifier, requirement


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="not a git checkout")
def test_no_file_names_one_machine_or_a_registry():
    listed = run("git", "ls-files", "-z", cwd=ROOT).stdout.split("\0")
    banned = re.compile(
        "|".join(
            (
                *("/wor" + "k/", "/hom" + "e/", "/roo" + "t/", "/mn" + "t/", r"\.libr" + "ary"),
                *("pypi" + r"\.org", "python" + "hosted", "deb" + r"\.debian", "index-" + "url"),
            )
        )
    )
    for name in filter(None, listed):
        path = ROOT / name
        if path.suffix == ".xz" or not path.is_file():
            continue
        # a picture is no text, but what it says of itself is
        found = banned.search(path.read_bytes().decode("utf-8", errors="replace"))
        assert not found, f"{name}: {found.group()}"


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="not a git checkout")
def test_nothing_generated_is_in_git():
    listed = run("git", "ls-files", cwd=ROOT).stdout.splitlines()
    generated = [n for n in listed if re.search(r"\.(pt|bin|idx|safetensors|pyc|log)$|/prep/", n)]
    assert generated == []


def test_setup_script_refuses_what_it_cannot_use(tmp_path):
    script = str(ROOT / "scripts" / "setup_venv.sh")
    result = run("bash", script, str(tmp_path / "v"), cwd=tmp_path, PYTHON3="no-such-python")
    assert result.returncode != 0 and "no-such-python is not found" in result.stderr
    old = tmp_path / "python3.10"
    old.write_text("#!/bin/sh\necho 3.10\n")
    old.chmod(0o755)
    result = run("bash", script, str(tmp_path / "v"), cwd=tmp_path, PYTHON3=str(old))
    assert result.returncode != 0 and "install by hand" in result.stderr
    assert not (tmp_path / "v").exists()
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "file").write_text("mine")
    result = run("bash", script, str(precious), cwd=tmp_path, PYTHON3=sys.executable)
    assert result.returncode != 0 and "is no virtual environment" in result.stderr
    assert (precious / "file").read_text() == "mine"
