"""Write a text file, which may be .gz or .xz, to standard output as it is."""

import gzip
import lzma
import shutil
import sys
from pathlib import Path

OPENERS = {".gz": gzip.open, ".xz": lzma.open}

if __name__ == "__main__":
    path = Path(sys.argv[1])
    with OPENERS.get(path.suffix, open)(path, "rb") as file:
        shutil.copyfileobj(file, sys.stdout.buffer)
