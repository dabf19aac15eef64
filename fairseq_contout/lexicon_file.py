"""A lexicon's file: for each source word the target words that are likely given it; safetensors.

``best`` is (V_source, N) int32, likeliest first and filled up with -1; ``frequent`` is (F,) int32,
the most frequent target words; ``log_probability`` is (V_source, N) float32, that of each of
``best``. Signatures tie the file to both dictionaries.
"""

from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from fairseq_contout.files import atomic_file
from fairseq_contout.symbols import dictionary_signature
from fairseq_contout.table_file import in_order

FORMAT_VERSION = "2"
_REBUILD = "make it again with preprocess/build_lexicon.py from the dictionaries in use"


class Lexicon(NamedTuple):
    """What a lexicon's file holds.

    Attributes:
        best: indices of target words for each source word, ``(V_source, N)``, filled up with -1.
        frequent: indices of the most frequent target words, ``(F,)``.
        log_probability: log p of each of ``best`` given its source word, ``(V_source, N)``; 0
            where there is none.
    """

    best: Tensor
    frequent: Tensor
    log_probability: Tensor

    @classmethod
    def alike(cls, best: Tensor, frequent: Tensor) -> "Lexicon":
        """Return a lexicon whose words all have probability 1."""
        return cls(best, frequent, torch.zeros(best.shape))


def save_lexicon(path, lexicon: Lexicon, source, target, command: str = ""):
    """Write a lexicon's file atomically.

    Args:
        path: the file to write.
        lexicon: its content.
        source: fairseq's dictionary of the source language.
        target: of the target language.
        command: the command that made the file, for people.
    """
    metadata = {
        "format_version": FORMAT_VERSION,
        "kind": "lexicon",
        "source_signature": dictionary_signature(source),
        "target_signature": dictionary_signature(target),
        "command": command,
    }
    tensors = {
        "best": lexicon.best.int().contiguous(),
        "frequent": lexicon.frequent.int().contiguous(),
        "log_probability": lexicon.log_probability.float().contiguous(),
    }
    content = in_order(save(tensors, metadata=metadata))
    with atomic_file(path) as file:
        file.write(content)


def load_lexicon(path, source_signature: str, target_signature: str, target_size: int) -> Lexicon:
    """Read a lexicon that was made for two dictionaries, given by their signatures.

    Args:
        path: the file.
        source_signature, target_signature: :func:`~fairseq_contout.symbols.dictionary_signature`.
        target_size: symbols of the target dictionary.

    Raises:
        ValueError: no such file, not a whole one, no lexicon, or one of other dictionaries.
    """
    if not Path(path).is_file():
        raise ValueError(
            f"--shortlist {path}: no such file; make it with preprocess/build_lexicon.py"
        )
    try:
        with safe_open(str(path), framework="pt") as file:
            metadata = file.metadata() or {}
            found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ValueError(
            f"--shortlist {path}: must be a whole safetensors file ({error}); {_REBUILD}"
        ) from error
    if metadata.get("kind") != "lexicon" or metadata.get("format_version") != FORMAT_VERSION:
        raise ValueError(
            f"--shortlist {path}: must be a lexicon of format {FORMAT_VERSION}, but is "
            f"{metadata.get('kind', 'something else')!r} of format "
            f"{metadata.get('format_version')!r}; {_REBUILD}"
        )
    _check_parts(path, metadata, found)
    own = {"source": source_signature, "target": target_signature}
    for side, expected in own.items():
        signature = metadata[f"{side}_signature"]
        if signature != expected:
            raise ValueError(
                f"--shortlist {path}: was made for another {side} dictionary: its signature is "
                f"{signature[:12]}…, the one in use has {expected[:12]}…; {_REBUILD}"
            )
    lexicon = Lexicon(found["best"].long(), found["frequent"].long(), found["log_probability"])
    for part in lexicon[:2]:
        if len(part.flatten()) and not -1 <= part.min() <= part.max() < target_size:
            raise ValueError(
                f"--shortlist {path}: words must be indices of the target dictionary, less than "
                f"{target_size}, but go from {part.min()} to {part.max()}; {_REBUILD}"
            )
    return lexicon


def _check_parts(path, metadata: dict, found: dict):
    # the keys that every lexicon has, and tensors of the shapes that they say
    sides = ("source_signature", "target_signature")
    lacking = [name for name in sides if name not in metadata]
    lacking += [name for name in Lexicon._fields if name not in found]
    if lacking:
        has = ", ".join(sorted([*metadata, *found]))
        raise ValueError(
            f"--shortlist {path}: must have {', '.join((*sides, *Lexicon._fields))}, but has no "
            f"{', '.join(lacking)} (there are {has}); {_REBUILD}"
        )
    for name, dims, numbers in zip(Lexicon._fields, (2, 1, 2), ("integers", "integers", "floats")):
        floats = found[name].dtype.is_floating_point
        if found[name].dim() != dims or floats != (numbers == "floats"):
            kind = str(found[name].dtype).replace("torch.", "")
            raise ValueError(
                f"--shortlist {path}: {name} must hold {numbers} of {dims} dimension(s), but is "
                f"{kind} of shape {tuple(found[name].shape)}; {_REBUILD}"
            )
    logs = found["log_probability"]
    ends = (float(logs.min()), float(logs.max())) if logs.numel() else (None, None)
    if logs.shape != found["best"].shape or not (logs <= 0).all() or logs.isinf().any():
        raise ValueError(
            f"--shortlist {path}: log_probability must hold a finite number of 0 or less for each "
            f"of best, {tuple(found['best'].shape)}, but is of shape {tuple(logs.shape)} with "
            f"numbers from {ends[0]} to {ends[1]}; {_REBUILD}"
        )
