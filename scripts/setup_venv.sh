#!/usr/bin/env bash
# Make .venv from the project's files when it is missing or stale; do nothing otherwise.
#
#   scripts/setup_venv.sh [FOLDER]        FOLDER defaults to .venv beside this script's parent
#
# environment: PYTHON3  interpreter to build with (python3)
#
# fairseq and fasttext are compiled here unless pip has built them before: some minutes, once.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
venv=${1:-$root/.venv}
base=${PYTHON3:-python3}
say() { echo "setup: $*" >&2; }
die() { echo "setup: error: $*" >&2; exit 1; }

command -v "$base" >/dev/null || die "PYTHON3 must be a Python interpreter, but $base is not found; set PYTHON3=/path/to/python3"
version=$("$base" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
case $version in
  3.11 | 3.12 | 3.13) ;;
  *) die "Python must be 3.11 to 3.13, but $base is $version; set PYTHON3=/path/to/another python3 (README.md tells how to install by hand with 3.9 or 3.10)" ;;
esac

# what the environment depends on; another hash means a stale one
stamp=$(cd "$root" && { echo "$version"; cat setup.py pyproject.toml constraints.txt scripts/setup_venv.sh; } | cksum | tr ' ' '-')
if [ -f "$venv/.stamp" ] && [ "$(cat "$venv/.stamp")" = "$stamp" ]; then
  exit 0
fi
if [ -e "$venv" ]; then
  # only what this script made, or began to make, is deleted
  [ -f "$venv/pyvenv.cfg" ] || die "$venv exists and is no virtual environment; move it away"
  say "$venv is stale or unfinished: making it anew"
  rm -rf "$venv"
else
  say "making $venv with $base ($version)"
fi
"$base" -m venv "$venv"
export PIP_DISABLE_PIP_VERSION_CHECK=1
constraints=$root/constraints.txt
pip() { "$venv/bin/python" -m pip install --quiet --constraint "$constraints" "$@"; }
pinned() { sed -n "s/^$1==\([^; ]*\).*/\1/p" "$constraints"; }

say "build tools"
pip setuptools wheel Cython numpy pybind11

torch=$(pinned torch)
say "torch $torch"
# A CPU build carries the suffix +cpu. It is taken from wherever pip is set up to look
# (PIP_FIND_LINKS, PIP_EXTRA_INDEX_URL); without one, the default build brings GPU libraries along.
if ! "$venv/bin/python" -m pip install --quiet --only-binary :all: "torch==$torch+cpu" 2>/dev/null; then
  say "no CPU build of torch at hand (PIP_FIND_LINKS or PIP_EXTRA_INDEX_URL can name one): taking the default build, some GB"
  pip "torch==$torch"
fi
# small, and asks for nothing; fairseq names it among its needs
"$venv/bin/python" -m pip install --quiet --no-deps "torchaudio==$(pinned torchaudio)"

say "fairseq (compiled in about 4 minutes unless pip has built it before)"
# without isolation it is built against the torch that is here; with it, pip would download another
pip --no-build-isolation "fairseq-fixed==$(pinned fairseq-fixed)"
say "fasttext (compiled in about a minute unless pip has built it before)"
pip --no-build-isolation "fasttext==$(pinned fasttext)"
say "everything else, and fairseq_contout itself"
pip --no-build-isolation --editable "$root[test]"

"$venv/bin/python" -c 'import fairseq, fasttext, sentencepiece, torch, fairseq_contout' 2>/dev/null ||
  "$venv/bin/python" -c 'import fairseq, fasttext, sentencepiece, torch, fairseq_contout'
echo "$stamp" >"$venv/.stamp"
say "ready: torch $("$venv/bin/python" -c 'import torch; print(torch.__version__)')"
