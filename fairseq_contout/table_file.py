"""The target table's file: safetensors, tied to one dictionary by a signature, written atomically.

``weight`` is (V, d) float32 with unit-norm rows in the order of the dictionary's indices. The
metadata (strings) says which dictionary, source and version made it and where the rows came from.
"""

import json
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from fairseq_contout.files import atomic_file
from fairseq_contout.messages import some
from fairseq_contout.symbols import dictionary_signature, has_mask

FORMAT_VERSION = "1"
_REBUILD = "rebuild it with preprocess/build_table.py --dictionary dict.<lang>.txt --output FILE"
_NORM_TOLERANCE = 1e-3
#: Rows that are checked at once.
_CHECKED_ROWS = 1 << 16


def dictionary_beside(path) -> Path:
    """Return where a table's own dictionary is unless one says otherwise: beside the table."""
    return Path(path).with_suffix(".dict.txt")


def check_rows(weight: Tensor, name: str = "table") -> Tensor:
    """Return the rows' norms ``(V,)`` if every row is finite and not zero.

    Raises:
        ValueError: names the table, the rule and the rows that break it.
    """
    if weight.dim() != 2 or not weight.is_floating_point():
        raise ValueError(
            f"{name}: a table must be a matrix (V, d) of floats, but is {tuple(weight.shape)} "
            f"{weight.dtype}; {_REBUILD}"
        )
    # part by part: the rows may be a file that is larger than the memory
    parts = weight.split(_CHECKED_ROWS)
    finite = [torch.isfinite(part).all(dim=1) for part in parts]
    bad = (~torch.cat(finite)).nonzero().flatten()
    if len(bad):
        raise ValueError(
            f"{name}: every row must be finite, but {len(bad)} hold NaN or infinity "
            f"(rows {some(bad.tolist())}); mend the source of these vectors"
        )
    norms = torch.cat([part.float().norm(dim=1) for part in parts])
    zero = (norms == 0).nonzero().flatten()
    if len(zero):
        raise ValueError(
            f"{name}: no row may be zero, but {len(zero)} are (rows {some(zero.tolist())}): a zero "
            "row has no direction to predict; give these words a vector, or a random one"
        )
    return norms


def normalize_rows(weight: Tensor, name: str = "table") -> Tensor:
    """Divide every row by its L2 norm: ``(V, d)`` → ``(V, d)`` float32.

    Raises:
        ValueError: a row is zero or not finite.
    """
    return weight.float() / check_rows(weight, name).unsqueeze(1)


def save_table(path, weight: Tensor, dictionary, *, source: str, origins: dict, command: str = ""):
    """Write a table file atomically: ``path`` holds the old file or the whole new one.

    Args:
        path: the file to write.
        weight: unit-norm rows ``(V, d)``, aligned with the dictionary's indices.
        dictionary: the fairseq dictionary of the target language.
        source: what the vectors came from, for people.
        origins: number of rows by origin, for instance ``{"pretrained": 5000, "random": 12}``.
        command: the command that made the file, for people.

    Raises:
        ValueError: wrong number of rows, rows that are not of unit norm, NaN or zero rows.
    """
    path = Path(path)
    _check_size(path, weight, dictionary)
    _check_unit(path, weight)
    metadata = {
        "format_version": FORMAT_VERSION,
        "signature": dictionary_signature(dictionary),
        "source": source,
        "dim": str(weight.size(1)),
        "norm": "unit",
        "origins": json.dumps(origins, sort_keys=True),
        "command": command,
    }
    content = in_order(save({"weight": weight.float().contiguous()}, metadata=metadata))
    with atomic_file(path) as file:
        file.write(content)


def in_order(content: bytes) -> bytes:
    """Return a safetensors file with its header in order: the same content is the same file."""
    # safetensors writes the metadata in an order that changes from run to run: the same table must
    # be the same file. A file is the length of its header, the header (JSON), and the numbers.
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(dict(sorted(header.items())), ensure_ascii=False, separators=(",", ":"))
    ordered = text.encode("utf-8")
    ordered += b" " * (-len(ordered) % 8)  # numbers begin at a multiple of 8
    return len(ordered).to_bytes(8, "little") + ordered + content[8 + length :]


def read_table(path):
    """Read a table file: returns the rows ``(V, d)`` and the metadata.

    Raises:
        ValueError: no such file, not a whole safetensors file, not a table, or of another format.
    """
    if not Path(path).is_file():
        raise ValueError(
            f"target table {path}: no such file; make it with preprocess/build_table.py"
        )
    try:
        with safe_open(str(path), framework="pt") as file:
            metadata = file.metadata() or {}
            names = list(file.keys())
            weight = file.get_tensor("weight") if "weight" in names else None
    except (SafetensorError, OSError) as error:
        raise ValueError(
            f"target table {path}: not a whole safetensors file ({error}); {_REBUILD}"
        ) from error
    if weight is None or metadata.get("format_version") != FORMAT_VERSION:
        raise ValueError(
            f"target table {path}: must hold 'weight' and format_version {FORMAT_VERSION}, but has "
            f"{names} and {metadata.get('format_version')!r}; {_REBUILD}"
        )
    return weight, metadata


def load_table(path, dictionary) -> Tensor:
    """Read the rows of a table made for ``dictionary``: unit-norm ``(V, d)`` float32.

    Where the dictionary ends in the ``<mask>`` of a masked language model, which no table has, a
    row is added for it. It is never a target, and never emitted.

    Raises:
        ValueError: as :func:`read_table`, and for a table of another dictionary (both signatures
            are named), a wrong number of rows, NaN, zero or unnormalised rows.
    """
    weight, metadata = read_table(path)
    expected, found = dictionary_signature(dictionary), metadata.get("signature", "")
    if found != expected:
        raise ValueError(
            f"target table {path}: was built for another dictionary: its signature is "
            f"{found[:12]}… ({weight.size(0)} rows), the one in use has {expected[:12]}… "
            f"({len(dictionary)} symbols); {_REBUILD}"
        )
    if has_mask(dictionary) and weight.dim() == 2 and weight.size(0) == len(dictionary) - 1:
        weight = torch.cat((weight, torch.eye(1, weight.size(1), dtype=weight.dtype)))
    _check_size(path, weight, dictionary)
    _check_unit(path, weight)
    return weight


def _check_size(path, weight: Tensor, dictionary):
    if weight.dim() != 2 or weight.size(0) != len(dictionary):
        raise ValueError(
            f"target table {path}: must have a row for each of the {len(dictionary)} symbols of "
            f"the dictionary, but its shape is {tuple(weight.shape)}; {_REBUILD}"
        )


def _check_unit(path, weight: Tensor):
    off = (check_rows(weight, f"target table {path}") - 1).abs()
    if off.max() > _NORM_TOLERANCE:
        row = int(off.argmax())
        raise ValueError(
            f"target table {path}: rows must have norm 1 (± {_NORM_TOLERANCE}), but row {row} is "
            f"off by {off[row]:.3g}; normalise the rows (table_file.normalize_rows)"
        )
