"""Write a text file, which may be .gz or .xz, to standard output as it is."""

import shutil
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # a checkout needs no installation

from preprocess.common import open_bytes  # noqa: E402

if __name__ == "__main__":
    with open_bytes(sys.argv[1]) as file:
        shutil.copyfileobj(file, sys.stdout.buffer)
