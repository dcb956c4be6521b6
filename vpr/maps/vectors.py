"""Global descriptors of a segment: a FAISS index of 8 or 4 bits a component, mapped into memory.

A component of a unit row is quantised uniformly between fixed bounds, which are never fitted on the map: codes of all
maps of one descriptor are comparable. A large segment has sketches of its rows too, a quarter as long: product codes of
4 bits (Andre et al., VLDB 2015, "Cache locality is not enough"), which FAISS compares 32 at a time. A query is compared
with all sketches, and then with the descriptors of the best.
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
SKETCHED_ROWS = 50_000  # a segment from this many rows on has sketches
REFINED = 2_000  # rows of a segment that are compared by their descriptors after their sketches
_TRAINED_ON = 8_192  # rows: 512 for each word of the codebook
_BLOCK = 65_536  # rows that are decoded at once
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

    def sketches(self, codebook: Floats) -> Any:
        """A FAISS index of sketches without rows, for a codebook (M, 16, dim / M)."""
        index = faiss.IndexPQFastScan(self.dim, len(codebook), 4, faiss.METRIC_INNER_PRODUCT)
        faiss.copy_array_to_vector(np.ascontiguousarray(codebook, dtype=np.float32).ravel(), index.pq.centroids)
        index.is_trained = True
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


def write_vectors(path: Path, codec: VectorCodec, codes: Codes, codebook: Floats | None) -> None:
    """The codes of a segment as an index file; with sketches if there is a codebook, and rows enough."""
    flat = index = codec.empty()  # FAISS does not keep the parts of an index alive
    if len(codes):
        flat.add_sa_codes(codes)
    if codebook is not None and len(codes) >= SKETCHED_ROWS:
        sketches = codec.sketches(codebook)
        for first in range(0, len(codes), _BLOCK):
            sketches.add(codec.decode(codes[first : first + _BLOCK]))
        index = faiss.IndexRefine(sketches, flat)
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
    index: Any, vector: Floats, k: int, mask: NDArray[np.bool_] | None = None, *, refined: int = REFINED
) -> tuple[Floats, Rows]:
    """Similarities and rows (k,) of the rows of a segment that are most similar to a vector (dim,), -1 pads.

    Only rows for which ``mask`` (N,) is true are found. Where there are sketches, ``refined`` rows are compared by
    their descriptors, more where many are excluded; 0 compares all.
    """
    if k < 1:
        return np.zeros(0, np.float32), np.zeros(0, np.int64)
    query = np.ascontiguousarray(vector[None], dtype=np.float32)
    excluded = 0 if mask is None else int(len(mask) - mask.sum())
    wanted = k + excluded  # any of those that are excluded may be among the best
    compared = max(refined, 2 * wanted if excluded else 0)
    if has_sketches(index) and refined and wanted <= compared <= max(refined, index.ntotal // 8):
        parameters = faiss.IndexRefineSearchParameters(k_factor=compared / wanted)
        similarities, rows = (each[0] for each in index.search(query, wanted, params=parameters))
        kept = rows >= 0 if mask is None else (rows >= 0) & mask[rows]
        return similarities[kept][:k], rows[kept][:k]
    packed = None if mask is None else np.packbits(mask, bitorder="little")
    selector = None if packed is None else faiss.IDSelectorBitmap(packed)
    parameters = faiss.SearchParameters(sel=selector)
    if _is_inverted(index):
        parameters = faiss.SearchParametersIVF(nprobe=index.nlist, sel=selector)
    similarities, rows = flat_of(index).search(query, k, params=parameters)
    return similarities[0], rows[0]


def codes_of(index: Any) -> Codes:
    """(N, bytes) codes of a segment in the order of its rows."""
    index = flat_of(index)
    size = index.sa_code_size() if not _is_inverted(index) else index.code_size
    codes = np.empty((index.ntotal, size), np.uint8)
    if not _is_inverted(index):
        if index.ntotal:
            codes[:] = faiss.rev_swig_ptr(index.codes.data(), codes.size).reshape(codes.shape)
        return codes
    for number in range(index.nlist):
        count = index.invlists.list_size(number)
        if count:
            rows = faiss.rev_swig_ptr(index.invlists.get_ids(number), count)
            codes[rows] = faiss.rev_swig_ptr(index.invlists.get_codes(number), count * size).reshape(count, size)
    return codes


def has_sketches(index: Any) -> bool:
    """Whether a segment has sketches of its rows."""
    return isinstance(index, faiss.IndexRefine)


def codebook_of(index: Any) -> Floats:
    """(M, 16, dim / M) the codebook of the sketches of a segment."""
    quantiser = faiss.downcast_index(index.base_index).pq
    codebook: Floats = faiss.vector_to_array(quantiser.centroids).reshape(quantiser.M, quantiser.ksub, quantiser.dsub)
    return codebook


def flat_of(index: Any) -> Any:
    """The index of the codes themselves."""
    return faiss.downcast_index(index.refine_index) if has_sketches(index) else index


def _is_inverted(index: Any) -> bool:
    """Whether the codes lie in inverted lists, as large segments once had them."""
    return isinstance(index, faiss.IndexIVF)


def train_codebook(codec: VectorCodec, codes: Sequence[Codes], seed: int = 0) -> Floats:
    """(M, 16, dim / M) a codebook of sketches, learned from a sample of the rows."""
    count = sum(map(len, codes))
    wanted = min(count, _TRAINED_ON)
    random = np.random.default_rng(seed)
    rows = [random.permutation(len(each))[: -(-wanted * len(each) // count)] for each in codes]
    sample = np.concatenate([codec.decode(each[np.sort(some)]) for each, some in zip(codes, rows, strict=True)])
    together = next(size for size in (4, 2, 1) if codec.dim % size == 0)
    quantiser = faiss.ProductQuantizer(codec.dim, codec.dim // together, 4)
    quantiser.cp.min_points_per_centroid = 1
    quantiser.train(sample)
    codebook: Floats = faiss.vector_to_array(quantiser.centroids).reshape(-1, quantiser.ksub, quantiser.dsub)
    return codebook


def closeness(codec: VectorCodec, codes: Codes, codebook: Floats, most: int = 20_000) -> float:
    """Mean cosine between rows and their reconstructions from sketches; it falls when the codebook is out of date.

    ``most`` limits the number of rows.
    """
    if not len(codes):
        return 1.0
    some = codec.decode(codes[np.linspace(0, len(codes) - 1, min(most, len(codes))).astype(np.int64)])
    sketches = codec.sketches(codebook)  # FAISS frees its quantiser with it
    said = sketches.pq.decode(sketches.pq.compute_codes(some))
    lengths = np.linalg.norm(some, axis=1) * np.linalg.norm(said, axis=1)
    return float((np.einsum("nd,nd->n", some, said) / np.maximum(lengths, 1e-12)).mean())
