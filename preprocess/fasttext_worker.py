"""Train one fastText model and leave: started by train_fasttext.py in a process of its own.

fastText 0.9.3 gives start values to a tenth of its matrix a thread and takes the rest as the memory
was (``DenseMatrix::uniform``). In a fresh process with MALLOC_PERTURB_=255 (glibc) that memory is
zero, so that one thread and one seed make one model; in a used one it is anything, also NaN.
"""

import json
import sys

import fasttext
from fasttext import FastText


def train(output: str, seed: int, options: dict):
    """Train with ``fasttext.train_unsupervised`` and save.

    Raises:
        ValueError, RuntimeError: from the library.
    """
    # the library's function takes no seed, but what is in its table of defaults reaches the trainer
    FastText.unsupervised_default["seed"] = seed
    fasttext.train_unsupervised(**options).save_model(output)


if __name__ == "__main__":
    try:
        train(**json.loads(sys.argv[1]))
    except (ValueError, RuntimeError, MemoryError) as error:
        print(str(error) or type(error).__name__)  # the parent words the message
        sys.exit(1)
