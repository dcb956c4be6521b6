"""Descriptors to shortlist, by FAISS (Douze et al., arXiv:2401.08281): inner product of unit rows.

Any factory string works: ``Flat`` (exact, the right default up to a million images), ``IVF1024,Flat``, ``HNSW32``,
``IVF1024,PQ64x4fs,RFlat``, ``SQ8``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import faiss
import numpy as np

from vpr.core import NO_ROW, ConfigError, DataError, Floats, Ranking, Rows
from vpr.runtime.files import read_json, sync_folder, write_json

INDEX = "index.faiss"
MANIFEST = "index.json"

# FAISS keeps any of several equal scores at the end of its list: look a little further, so that the lowest rows stay.
TIES = 16
MOST_TIES = 4096

# Rows to train on: FAISS itself samples at most 256 for each list.
MIN_TRAINING = 200_000
TRAINING_PER_LIST = 64
LONGEST_FACTORY = 128  # characters
MOST = {"IVF": 1 << 24, "HNSW": 512, "NSG": 512}  # largest number after a name in a factory string
MOST_OTHER = 1 << 16


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


class Vectors(Protocol):
    """Descriptors of a database, given block by block, so that they are in memory once: in the index."""

    @property
    def dim(self) -> int: ...

    def __len__(self) -> int: ...

    def blocks(self) -> Iterator[Floats]:
        """(n, dim) float32 each; together all rows, in order."""


class Matrix:
    """Descriptors that are in memory already."""

    def __init__(self, rows: Floats) -> None:
        self.rows = rows
        self.dim = rows.shape[1]

    def __len__(self) -> int:
        return len(self.rows)

    def blocks(self) -> Iterator[Floats]:
        yield self.rows


def build_index(vectors: Vectors | Floats, factory: str, use_gpu: bool = False) -> FaissIndex:
    """Train where the factory needs it, and add every row of (N, D) that is not zero, block by block.

    Training takes evenly spread rows: at least MIN_TRAINING, and TRAINING_PER_LIST for each list of an inverted file.
    Raises ConfigError for a factory string that FAISS does not know, DataError if there is nothing to add or too little
    to train on.
    """
    source: Vectors = Matrix(vectors) if isinstance(vectors, np.ndarray) else vectors
    present = np.concatenate([block.any(axis=1) for block in source.blocks()] or [np.zeros(0, bool)])
    rows = np.flatnonzero(present).astype(np.int64)
    if not len(rows):
        raise DataError("no image of the database has a global descriptor; nothing can be searched")
    index = _create(factory, source.dim)
    require_enough_rows(factory, len(rows))
    if use_gpu:
        index = _to_gpu(index)
    try:
        if not index.is_trained:
            index.train(_sample(source, rows, max(MIN_TRAINING, TRAINING_PER_LIST * _lists_of(index))))
        for block in source.blocks():
            added = block[block.any(axis=1)]
            if len(added):
                index.add(np.ascontiguousarray(added, dtype=np.float32))
    except (RuntimeError, MemoryError) as error:
        raise DataError(
            f"index.factory = {factory!r} cannot be trained on {len(rows)} images: {_reason(error)}; "
            "use 'Flat' or fewer lists"
        ) from None
    return FaissIndex(index, factory, rows, len(source))


def require_factory(factory: str) -> None:
    """Raise ConfigError for a factory string that FAISS cannot make, or that no machine could hold."""
    if len(factory) > LONGEST_FACTORY:  # FAISS reads it recursively, and ends the process when it is too deep
        raise ConfigError(f"index.factory has {len(factory)} characters; at most {LONGEST_FACTORY} are read")
    for name, count in re.findall(r"([A-Za-z]+)(\d+)", factory):
        most = MOST.get(name, MOST_OTHER)
        if len(count) > 9 or int(count) > most:
            raise ConfigError(f"index.factory = {factory!r}: {name}{count} is too large; at most {name}{most}")


def _create(factory: str, dim: int) -> Any:
    require_factory(factory)
    try:
        return faiss.index_factory(dim, factory, faiss.METRIC_INNER_PRODUCT)
    except (RuntimeError, MemoryError) as error:
        raise ConfigError(
            f"index.factory = {factory!r}: {_reason(error)}; for instance 'Flat', 'IVF1024,Flat'"
        ) from None


def require_enough_rows(factory: str, count: int) -> None:
    """Raise DataError before a training that would take minutes to find out that it has too few rows."""
    lists = [int(number) for number in re.findall(r"IVF(\d+)", factory)]
    needed = max([*lists, 256 if "PQ" in factory else 0])
    if count < needed:
        raise DataError(
            f"index.factory = {factory!r} needs at least {needed} images to be trained on, the database has {count}; "
            "use 'Flat' or fewer lists"
        )


def _lists_of(index: Any) -> int:
    """Lists of an inverted file; 0 for another index."""
    try:
        return int(faiss.extract_index_ivf(index).nlist)
    except (RuntimeError, AttributeError):
        return 0


def _sample(source: Vectors, rows: Rows, count: int) -> Floats:
    """At most ``count`` of the rows, evenly spread."""
    chosen = rows[np.linspace(0, len(rows) - 1, min(count, len(rows))).round().astype(np.int64)]
    parts, first = [], 0
    for block in source.blocks():
        here = chosen[(chosen >= first) & (chosen < first + len(block))] - first
        parts.append(block[here])
        first += len(block)
    return np.ascontiguousarray(np.concatenate(parts), dtype=np.float32)


def load_index(folder: Path, use_gpu: bool = False) -> tuple[FaissIndex, dict[str, Any]]:
    """A saved index and its manifest; raises DataError if the folder holds none or a damaged one."""
    if not (folder / MANIFEST).exists():
        raise DataError(f"{folder}: no {MANIFEST}, so no whole index lies here; build it again")
    try:
        manifest = read_json(folder / MANIFEST)
        index = faiss.read_index(str(folder / INDEX))
        rows = np.load(folder / "rows.npy")
    except (RuntimeError, OSError, ValueError) as error:
        raise DataError(f"{folder}: damaged index: {_reason(error)}; delete the folder and build it again") from None
    if len(rows) != index.ntotal or index.ntotal != manifest["vectors"]:
        raise DataError(f"{folder}: the index holds {index.ntotal} vectors, its manifest says {manifest['vectors']}")
    return FaissIndex(_to_gpu(index) if use_gpu else index, manifest["factory"], rows, manifest["images"]), manifest


def kept_index(
    folder: Path, vectors: Vectors, factory: str, made_by: dict[str, str], use_gpu: bool = False
) -> FaissIndex:
    """The index of the vectors: read from the folder if the same made it, else built and written there.

    A flat index, which is nothing but the vectors, is not written.
    """
    if factory == "Flat":  # quicker to build than to read
        return build_index(vectors, factory, use_gpu)
    wanted = {"factory": factory, **made_by}
    try:
        manifest = read_json(folder / MANIFEST)
        if {key: manifest.get(key) for key in wanted} == wanted:
            return load_index(folder, use_gpu)[0]
    except (OSError, ValueError, AttributeError, DataError):
        pass  # none, or a damaged one: built again
    index = build_index(vectors, factory, use_gpu)
    index.save(folder, made_by)
    return index


def set_search_parameters(index: Any, parameters: str) -> None:
    """Apply FAISS's search-time parameters, "name=value,..."; raises ConfigError for one the index does not have."""
    for assignment in filter(None, parameters.split(",")):
        name, _, value = assignment.partition("=")
        try:
            faiss.ParameterSpace().set_index_parameter(index, name.strip(), float(value))
        except (RuntimeError, ValueError):
            raise ConfigError(f"index.search = {parameters!r}: this index has no parameter {assignment!r}") from None


def first_per_group(ranking: Ranking, groups: Rows, k: int) -> Ranking:
    """Keep the best row of each group, at most k per query: one crop per panorama."""
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
    """Returns the number of GPUs that FAISS can use: none with the package faiss-cpu."""
    return int(faiss.get_num_gpus()) if hasattr(faiss, "get_num_gpus") else 0


def _to_gpu(index: Any) -> Any:
    if gpu_count() == 0:
        raise ConfigError("index.gpu = true, but FAISS sees no GPU; install faiss-gpu instead of faiss-cpu")
    return faiss.index_cpu_to_all_gpus(index)


def _to_cpu(index: Any) -> Any:
    return faiss.index_gpu_to_cpu(index) if gpu_count() and hasattr(index, "getDevice") else index


def _reason(error: Exception) -> str:
    """Returns a FAISS message without the source location where it was raised."""
    return re.split(r"\.cpp:\d+: |failed: ", str(error).strip())[-1] or type(error).__name__
