"""Descriptors to shortlist, by FAISS (Douze et al., arXiv:2401.08281): inner product of unit rows.

Any factory string works: ``Flat`` (exact, the right default up to a million images), ``IVF1024,Flat``, ``HNSW32``,
``IVF1024,PQ64x4fs,RFlat``, ``SQ8``.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from vpr.core import NO_ROW, ConfigError, DataError, Floats, Ranking, Rows
from vpr.runtime.files import read_json, sync_folder, write_json

INDEX = "index.faiss"
MANIFEST = "index.json"

# FAISS keeps any of several equal scores at the end of its list: look a little further, so that the lowest rows stay.
TIES = 16
MOST_TIES = 4096


class FaissIndex:
    """A searchable set of unit rows; ``rows[i]`` is the database row of the i-th vector in FAISS."""

    def __init__(self, index: Any, factory: str, rows: Rows, images: int) -> None:
        self.index = index
        self.factory = factory
        self.rows = rows
        self.images = images  # in the database, those without a descriptor included

    def search(self, queries: Floats, k: int, search_parameters: str = "") -> Ranking:
        """The k most similar database rows of each (Q, D) query, padded where the database has no more to offer.

        Equal scores keep the lower row first. A zero query, an image without features, gets no candidates.
        ``search_parameters`` are FAISS's own, for instance "nprobe=32" or "efSearch=128".
        """
        set_search_parameters(self.index, search_parameters)
        queries = np.ascontiguousarray(queries, dtype=np.float32)
        found = min(k + TIES, len(self.rows))
        while True:
            scores, places = self.index.search(queries, found)
            cut_tie = (scores[:, -1] == scores[:, min(k, found) - 1]).any() and found < len(self.rows)
            if not cut_tie or found >= k + MOST_TIES:
                break
            found = min(2 * found, len(self.rows))
        rows = np.append(self.rows, NO_ROW)[places]  # FAISS pads with -1 too
        rows[~queries.any(axis=1)] = NO_ROW
        scores = np.where(rows == NO_ROW, -np.inf, scores).astype(np.float32)
        order = np.lexsort((rows, -scores), axis=1)[:, :k]
        missing = ((0, 0), (0, min(k, self.images) - order.shape[1]))
        return Ranking(
            np.pad(np.take_along_axis(rows, order, axis=1), missing, constant_values=NO_ROW),
            np.pad(np.take_along_axis(scores, order, axis=1), missing, constant_values=-np.inf),
        )

    def save(self, folder: Path, made_by: dict[str, Any]) -> None:
        """Write the index and then its manifest; a folder without manifest is not an index."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / MANIFEST).unlink(missing_ok=True)
        faiss.write_index(_to_cpu(self.index), str(folder / INDEX))
        np.save(folder / "rows.npy", self.rows)
        sync_folder(folder)
        write_json(
            folder / MANIFEST, {"factory": self.factory, "vectors": len(self.rows), "images": self.images, **made_by}
        )


def build_index(vectors: Floats, factory: str, use_gpu: bool = False) -> FaissIndex:
    """Train where the factory needs it, and add every row of (N, D) that is not zero.

    Raises ConfigError for a factory string that FAISS does not know, DataError if there is nothing to add or too little
    to train on.
    """
    rows = np.flatnonzero(vectors.any(axis=1)).astype(np.int64)
    if not len(rows):
        raise DataError("no image of the database has a global descriptor; nothing can be searched")
    try:
        index = faiss.index_factory(vectors.shape[1], factory, faiss.METRIC_INNER_PRODUCT)
    except RuntimeError as error:
        raise ConfigError(
            f"index.factory = {factory!r}: {_reason(error)}; for instance 'Flat', 'IVF1024,Flat'"
        ) from None
    if use_gpu:
        index = _to_gpu(index)
    added = np.ascontiguousarray(vectors[rows], dtype=np.float32)
    try:
        if not index.is_trained:
            index.train(added)
        index.add(added)
    except RuntimeError as error:
        raise DataError(
            f"index.factory = {factory!r} cannot be trained on {len(rows)} images: {_reason(error)}; "
            "use 'Flat' or fewer lists"
        ) from None
    return FaissIndex(index, factory, rows, len(vectors))


def load_index(folder: Path, use_gpu: bool = False) -> tuple[FaissIndex, dict[str, Any]]:
    """A saved index and its manifest; raises DataError if the folder holds none or a damaged one."""
    if not (folder / MANIFEST).exists():
        raise DataError(f"{folder}: no {MANIFEST}, so no whole index lies here; build it again")
    manifest = read_json(folder / MANIFEST)
    try:
        index = faiss.read_index(str(folder / INDEX))
        rows = np.load(folder / "rows.npy")
    except (RuntimeError, OSError, ValueError) as error:
        raise DataError(f"{folder}: damaged index: {_reason(error)}; delete the folder and build it again") from None
    if len(rows) != index.ntotal or index.ntotal != manifest["vectors"]:
        raise DataError(f"{folder}: the index holds {index.ntotal} vectors, its manifest says {manifest['vectors']}")
    return FaissIndex(_to_gpu(index) if use_gpu else index, manifest["factory"], rows, manifest["images"]), manifest


def set_search_parameters(index: Any, parameters: str) -> None:
    """Apply FAISS's search-time parameters, "name=value,..."; raises ConfigError for one the index does not have."""
    for assignment in filter(None, parameters.split(",")):
        name, _, value = assignment.partition("=")
        try:
            faiss.ParameterSpace().set_index_parameter(index, name.strip(), float(value))
        except (RuntimeError, ValueError):
            raise ConfigError(f"index.search = {parameters!r}: this index has no parameter {assignment!r}") from None


def first_per_group(ranking: Ranking, groups: Rows, k: int) -> Ranking:
    """Keep the best row of each group, at most k per query: one cut-out per panorama."""
    rows = np.full((len(ranking), k), NO_ROW, dtype=np.int64)
    scores = np.full((len(ranking), k), -np.inf, dtype=np.float32)
    for query in range(len(ranking)):
        candidates = ranking.rows[query][ranking.rows[query] != NO_ROW]
        _, first = np.unique(groups[candidates], return_index=True)
        kept = np.sort(first)[:k]
        rows[query, : len(kept)] = candidates[kept]
        scores[query, : len(kept)] = ranking.scores[query, kept]
    return Ranking(rows, scores)


def shortlist(
    index: FaissIndex, queries: Floats, k: int, groups: Rows | None = None, search_parameters: str = ""
) -> Ranking:
    """The k best database rows per query, or with ``groups`` the best row of each of the k best groups."""
    if groups is None:
        return index.search(queries, k, search_parameters)
    largest = int(np.unique(groups, return_counts=True)[1].max())
    return first_per_group(index.search(queries, k * largest, search_parameters), groups, k)


def gpu_count() -> int:
    """How many GPUs FAISS can use: none with the package faiss-cpu."""
    return int(faiss.get_num_gpus()) if hasattr(faiss, "get_num_gpus") else 0


def _to_gpu(index: Any) -> Any:
    if gpu_count() == 0:
        raise ConfigError("index.gpu = true, but FAISS sees no GPU; install faiss-gpu instead of faiss-cpu")
    return faiss.index_cpu_to_all_gpus(index)


def _to_cpu(index: Any) -> Any:
    return faiss.index_gpu_to_cpu(index) if gpu_count() and hasattr(index, "getDevice") else index


def _reason(error: Exception) -> str:
    """What a FAISS message says after the place in its source where it was raised."""
    return re.split(r"\.cpp:\d+: |failed: ", str(error).strip())[-1] or type(error).__name__
