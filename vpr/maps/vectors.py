"""Global descriptors of a segment: a FAISS index of 8 or 4 bits a component, mapped into memory.

A component of a unit row is quantised uniformly between fixed bounds, which are never fitted on the map: codes of all
maps of one descriptor are comparable. A segment has one code for each of its rows; a large one has them in the inverted
lists of a coarse quantiser that the segments share.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import faiss as _faiss
import numpy as np
from numpy.typing import NDArray

from vpr.core import ConfigError, DataError, Floats, Rows

faiss: Any = _faiss  # its type stubs lack what Python adds to it
Codes = NDArray[np.uint8]

MOST_BYTES = 512  # of a global descriptor
IVF_ROWS = 50_000  # a segment from this many rows on is searched by inverted lists
_BOUND = 6.0  # in standard deviations of the components of a unit row


class VectorCodec:
    """Unit rows (N, dim) to codes and back; 8 bits a component where that fits in MOST_BYTES, else 4.

    The bounds are 6 / sqrt(dim), six standard deviations; a component beyond is cut. Raises ConfigError for rows that
    do not fit.
    """

    def __init__(self, dim: int) -> None:
        if dim * 4 > MOST_BYTES * 8:
            raise ConfigError(
                f"a map keeps global descriptors of at most {MOST_BYTES * 2} dimensions ({MOST_BYTES} bytes an image), "
                f"not {dim}; choose another global descriptor, or weights with fewer dimensions"
            )
        self.dim = dim
        self.bits = 8 if dim <= MOST_BYTES else 4

    def empty(self) -> Any:
        """A flat FAISS index without rows."""
        kind = faiss.ScalarQuantizer.QT_8bit_uniform if self.bits == 8 else faiss.ScalarQuantizer.QT_4bit_uniform
        index = faiss.IndexScalarQuantizer(self.dim, kind, faiss.METRIC_INNER_PRODUCT)
        self._bound(index)
        return index

    def empty_lists(self, centroids: Floats) -> Any:
        """An inverted file without rows."""
        coarse = faiss.IndexFlatIP(self.dim)
        coarse.add(centroids)
        kind = self.empty().sq.qtype
        index = faiss.IndexIVFScalarQuantizer(coarse, self.dim, len(centroids), kind, faiss.METRIC_INNER_PRODUCT, False)
        index.own_fields = True
        coarse.this.disown()
        self._bound(index)
        return index

    def encode(self, vectors: Floats) -> Codes:
        """(N, dim) to (N, bytes)."""
        codes: Codes = self.empty().sa_encode(np.ascontiguousarray(vectors, dtype=np.float32))
        return codes

    def decode(self, codes: Codes) -> Floats:
        """(N, bytes) to (N, dim), the middle of each step."""
        vectors: Floats = self.empty().sa_decode(np.ascontiguousarray(codes))
        return vectors

    def _bound(self, index: Any) -> None:
        bound = min(1.0, _BOUND / self.dim**0.5)
        faiss.copy_array_to_vector(np.array([-bound, 2 * bound], np.float32), index.sq.trained)
        index.is_trained = True


def write_vectors(path: Path, codec: VectorCodec, codes: Codes, centroids: Floats | None) -> None:
    """The codes of a segment as an index file; in inverted lists if there are centroids and rows enough."""
    if centroids is None or len(codes) < IVF_ROWS:
        index = codec.empty()
        if len(codes):
            index.add_sa_codes(codes)
    else:
        index = codec.empty_lists(centroids)
        lists = assign(codec, codes, centroids)
        order = np.argsort(lists, kind="stable").astype(np.int64)
        bounds = np.searchsorted(lists[order], np.arange(len(centroids) + 1))
        for number in np.flatnonzero(np.diff(bounds)).tolist():
            rows = np.ascontiguousarray(order[bounds[number] : bounds[number + 1]])
            some = np.ascontiguousarray(codes[rows])
            index.invlists.add_entries(number, len(rows), faiss.swig_ptr(rows), faiss.swig_ptr(some))
        index.ntotal = len(codes)
    faiss.write_index(index, str(path))


def read_vectors(path: Path) -> Any:
    """The index of a segment, mapped into memory where FAISS can. Raises DataError for a damaged file."""
    try:
        return faiss.read_index(str(path), getattr(faiss, "IO_FLAG_MMAP_IFC", 0))
    except RuntimeError as error:
        raise DataError(
            f"{path}: damaged ({str(error).rsplit(':', 1)[-1].strip()}); `vpr map verify` says more"
        ) from None


def search_vectors(
    index: Any, vector: Floats, k: int, mask: NDArray[np.bool_] | None = None, probed: float = 1.0
) -> tuple[Floats, Rows]:
    """Similarities and rows (k,) of the rows of a segment that are most similar to a vector (dim,), -1 pads.

    Only rows for which ``mask`` (N,) is true are found. ``probed`` is the share of inverted lists that are looked into.
    """
    if k < 1:
        return np.zeros(0, np.float32), np.zeros(0, np.int64)
    packed = None if mask is None else np.packbits(mask, bitorder="little")
    selector = None if packed is None else faiss.IDSelectorBitmap(packed)
    parameters = faiss.SearchParameters(sel=selector)
    if is_inverted(index):
        parameters = faiss.SearchParametersIVF(nprobe=max(1, round(probed * index.nlist)), sel=selector)
    query = np.ascontiguousarray(vector[None], dtype=np.float32)
    similarities, rows = index.search(query, k, params=parameters)
    return similarities[0], rows[0]


def codes_of(index: Any) -> Codes:
    """(N, bytes) codes of a segment in the order of its rows."""
    size = index.sa_code_size() if not is_inverted(index) else index.code_size
    codes = np.empty((index.ntotal, size), np.uint8)
    if not is_inverted(index):
        if index.ntotal:
            codes[:] = faiss.rev_swig_ptr(index.codes.data(), codes.size).reshape(codes.shape)
        return codes
    for number in range(index.nlist):
        count = index.invlists.list_size(number)
        if count:
            rows = faiss.rev_swig_ptr(index.invlists.get_ids(number), count)
            codes[rows] = faiss.rev_swig_ptr(index.invlists.get_codes(number), count * size).reshape(count, size)
    return codes


def is_inverted(index: Any) -> bool:
    """Whether the codes lie in inverted lists."""
    return isinstance(index, faiss.IndexIVF)


def assign(codec: VectorCodec, codes: Codes, centroids: Floats, block: int = 65_536) -> Rows:
    """(N,) the nearest centroid of each row."""
    coarse = faiss.IndexFlatIP(codec.dim)
    coarse.add(centroids)
    parts = [coarse.search(codec.decode(codes[i : i + block]), 1)[1][:, 0] for i in range(0, len(codes), block)]
    return np.concatenate(parts) if parts else np.zeros(0, np.int64)


def train_centroids(codec: VectorCodec, codes: Sequence[Codes], seed: int = 0) -> Floats:
    """(L, dim) unit rows: spherical k-means of a sample of the rows; L is a power of two near 2 sqrt(N)."""
    count = sum(map(len, codes))
    lists = 2 ** round(np.log2(max(1.0, min(2 * count**0.5, count / 8))))
    random = np.random.default_rng(seed)
    wanted = min(count, 32 * lists)
    rows = [random.permutation(len(each))[: -(-wanted * len(each) // count)] for each in codes]
    sample = np.concatenate([codec.decode(each[np.sort(some)]) for each, some in zip(codes, rows, strict=True)])
    kmeans = faiss.Kmeans(codec.dim, lists, niter=8, spherical=True, seed=seed, min_points_per_centroid=1)
    kmeans.train(sample)
    return np.ascontiguousarray(kmeans.centroids, dtype=np.float32)


def closeness(codec: VectorCodec, codes: Codes, centroids: Floats, most: int = 20_000) -> float:
    """Mean similarity of (at most so many) rows with their nearest centroid: it falls where the quantiser is stale."""
    if not len(codes):
        return 1.0
    some = codes[np.linspace(0, len(codes) - 1, min(most, len(codes))).astype(np.int64)]
    coarse = faiss.IndexFlatIP(codec.dim)
    coarse.add(centroids)
    return float(coarse.search(codec.decode(some), 1)[0].mean())
