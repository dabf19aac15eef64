"""FAISS indices over unit rows: building them, and keeping them in a file.

An index file is a line of JSON (format and signature), the index as FAISS writes it, and the
SHA-256 of all of that. The signature is a SHA-256 of the rows and of what shapes the index, so that
an index never answers for other rows.

Sources: Douze et al. (2024), The Faiss library, https://arxiv.org/abs/2401.08281; Malkov and
Yashunin (2018), Efficient and Robust Approximate Nearest Neighbor Search Using Hierarchical
Navigable Small World Graphs, https://arxiv.org/abs/1603.09320; Jégou, Douze and Schmid (2011),
Product Quantization for Nearest Neighbor Search, https://doi.org/10.1109/TPAMI.2010.57
"""

import hashlib
import json
import logging
import math
import os
import time
from pathlib import Path
from typing import Callable, Iterator, NamedTuple

import torch
from torch import Tensor

from fairseq_contout.files import atomic_file

logger = logging.getLogger(__name__)

FORMAT_VERSION = 1
_DIGEST_BYTES = 32
_BLOCK = 1 << 24
#: Rows that k-means sees for each cluster.
_TRAINING_ROWS = 64
#: Values of a byte of a product quantiser's code, each of which must be learned from a row.
_PQ_VALUES = 256


def import_faiss(search: str):
    """Return the module ``faiss``.

    Raises:
        ValueError: it is not installed.
    """
    try:
        import faiss
    except ImportError as error:
        raise ValueError(
            f"--knn-search {search} needs the package faiss, which cannot be imported ({error}); "
            'run pip install "faiss-cpu>=1.7.4" (the extra "faiss" of this package), or take '
            "--knn-search exact"
        ) from error
    return faiss


class Shape(NamedTuple):
    """What an index is, beside its rows.

    Attributes:
        kind: ``hnsw``, ``ivf`` or ``ivfpq``.
        dim: d.
        links: HNSW: neighbours that a node of the graph keeps.
        ef_construction: HNSW: nodes that are looked at for each row that is added.
        lists: IVF: clusters.
        pq_bytes: IVFPQ: bytes of a code.
    """

    kind: str
    dim: int
    links: int = 0
    ef_construction: int = 0
    lists: int = 0
    pq_bytes: int = 0


def make_shape(options, dim: int, rows: int) -> Shape:
    """Return the index that options ask for, over so many rows of a table.

    Raises:
        ValueError: a parameter does not fit the table.
    """
    kind = options.knn_search
    if kind == "hnsw":
        return Shape(kind, dim, options.get("hnsw_links"), options.get("hnsw_ef_construction"))
    lists = (
        min(rows, round(4 * math.sqrt(rows))) if options.ivf_lists is None else options.ivf_lists
    )
    if lists > rows:
        raise ValueError(
            f"--ivf-lists must be at most the words of the index ({rows}), but is {lists}; lower it"
        )
    if options.get("ivf_probes") > lists and options.ivf_probes is not None:
        raise ValueError(
            f"--ivf-probes must be at most --ivf-lists ({lists}), but is {options.ivf_probes}; "
            "lower it"
        )
    if kind == "ivf":
        return Shape(kind, dim, lists=lists)
    if rows < _PQ_VALUES:
        raise ValueError(
            f"--knn-search ivfpq learns {_PQ_VALUES} values of a byte from as many words or more, "
            f"but the index has {rows}; lower --knn-frequent, or take --knn-search exact"
        )
    size = options.pq_bytes
    if size is None:
        size = max(n for n in range(1, max(1, dim // 4) + 1) if dim % n == 0)
    if dim % size:
        raise ValueError(
            f"--pq-bytes must divide the dimension of the table ({dim}), but is {size}; change it"
        )
    return Shape(kind, dim, lists=lists, pq_bytes=size)


def widened(shape: Shape, coordinates: int) -> Shape:
    """Return the shape of an index over rows with so many further coordinates, or a few more.

    Bytes of codes stand for coordinates as they did; the further ones have bytes of their own.
    """
    if shape.kind != "ivfpq":
        return shape._replace(dim=shape.dim + coordinates)
    each = shape.dim // shape.pq_bytes
    more = -(-coordinates // each)
    return shape._replace(dim=shape.dim + more * each, pq_bytes=shape.pq_bytes + more)


def build_index(faiss, shape: Shape, rows: int, chunks: Callable[[], Iterator[Tensor]]):
    """Build an index for inner products.

    Args:
        faiss: the module.
        shape: what to build.
        rows: how many rows there are.
        chunks: yields them in order, ``(…, d)`` float32 on the CPU, each time it is called.
    """
    metric = faiss.METRIC_INNER_PRODUCT
    if shape.kind == "hnsw":
        index = faiss.IndexHNSWFlat(shape.dim, shape.links, metric)
        index.hnsw.efConstruction = shape.ef_construction
    else:
        coarse = faiss.IndexFlatIP(shape.dim)
        if shape.kind == "ivf":
            index = faiss.IndexIVFFlat(coarse, shape.dim, shape.lists, metric)
        else:
            index = faiss.IndexIVFPQ(coarse, shape.dim, shape.lists, shape.pq_bytes, 8, metric)
            index.pq.cp.min_points_per_centroid = 1  # no warning: make_shape has looked
        index.cp.spherical = True  # rows are directions
        index.cp.min_points_per_centroid = 1
        wanted = _TRAINING_ROWS * max(shape.lists, _PQ_VALUES)
        stride = max(1, rows // wanted)  # of all frequencies: dictionaries are in their order
        index.train(torch.cat([part[::stride] for part in chunks()]).numpy())
    for part in chunks():
        index.add(part.numpy())
    return index


def signature_of(shape: Shape, chunks: Iterator[Tensor]) -> str:
    """Return the SHA-256 (hex) of an index's shape and rows."""
    digest = hashlib.sha256(json.dumps([FORMAT_VERSION, *shape]).encode("utf-8"))
    for part in chunks:
        digest.update(part.numpy().tobytes())
    return digest.hexdigest()


def cached_index(faiss, shape: Shape, rows: int, chunks, folder):
    """Read an index from a folder, or build it and put it there.

    Args:
        faiss, shape, rows, chunks: as for :func:`build_index`.
        folder: where index files are; None keeps none.

    Returns:
        the index, and the seconds that it took to build, 0 where it was read.

    Raises:
        ValueError: no such folder, or a file that is not a whole index.
    """
    if folder is not None and not Path(folder).is_dir():
        raise ValueError(f"--knn-cache {folder}: no such folder; create it or give another")
    if folder is not None and not os.access(folder, os.W_OK):
        raise ValueError(
            f"--knn-cache {folder}: must be a folder that can be written to, but is not; change "
            "its permissions or give another"
        )
    path = signature = None
    if folder is not None:
        signature = signature_of(shape, chunks())
        path = Path(folder) / f"{shape.kind}-{signature[:16]}.index"
        if path.exists():
            index = read_index(faiss, path, signature)
            if index is not None:
                logger.info(f"{path}: {shape.kind} index of {rows} rows read")
                return index, 0.0
    began = time.perf_counter()
    index = build_index(faiss, shape, rows, chunks)
    seconds = time.perf_counter() - began
    if path is not None:
        try:
            write_index(faiss, index, path, signature)
            logger.info(f"{path}: {shape.kind} index of {rows} rows written")
        except OSError as error:  # the index is there, and took long to build
            logger.warning(f"--knn-cache: {error}; this process goes on, the next builds it again")
    return index, seconds


def write_index(faiss, index, path, signature: str):
    """Write an index file atomically."""
    digest = hashlib.sha256()
    with atomic_file(path) as file:

        def write(content) -> int:
            digest.update(content)
            return file.write(content)

        header = {"format_version": FORMAT_VERSION, "signature": signature}
        write(json.dumps(header).encode("utf-8") + b"\n")
        faiss.write_index(index, faiss.PyCallbackIOWriter(write))
        file.write(digest.digest())


def read_index(faiss, path, signature: str):
    """Read an index file; None where it belongs to other rows, which the log then says.

    Raises:
        ValueError: the file is damaged.
    """
    path = Path(path)
    try:
        with open(path, "rb") as file:
            _check_digest(file, path.stat().st_size)
            file.seek(0)
            header = json.loads(file.readline())
            if header["signature"] != signature:
                logger.warning(
                    f"{path}: index of other rows or parameters (signature "
                    f"{header['signature'][:12]}…, needed is {signature[:12]}…): built again"
                )
                return None
            return faiss.read_index(faiss.PyCallbackIOReader(file.read))
    except (ValueError, KeyError, TypeError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(
            f"{path}: must be a whole index file, but is damaged ({reason}); delete it, and it is "
            "built again"
        ) from error


def _check_digest(file, size: int):
    digest, left = hashlib.sha256(), size - _DIGEST_BYTES
    while left > 0:
        block = file.read(min(_BLOCK, left))
        digest.update(block)
        left -= len(block)
    if file.read() != digest.digest():
        raise ValueError("its content does not match its checksum")
