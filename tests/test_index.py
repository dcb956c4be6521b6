from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import faiss
import numpy as np
import pytest

from vpr.core import NO_ROW, ConfigError, DataError, Floats, Ranking
from vpr.index import build_index, faiss_index, first_per_group, kept_index, load_index, shortlist
from vpr.index.faiss_index import gpu_count


def unit(count: int, dim: int = 16, seed: int = 0) -> Floats:
    vectors = np.random.default_rng(seed).normal(size=(count, dim)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_flat_search_is_exact() -> None:
    database, queries = unit(300), unit(20, seed=1)
    ranking = build_index(database, "Flat").search(queries, 10)
    expected = np.argsort(-(queries @ database.T), axis=1, kind="stable")[:, :10]
    assert np.array_equal(ranking.rows, expected)
    assert np.allclose(ranking.scores, np.take_along_axis(queries @ database.T, expected, axis=1), atol=1e-6)


def test_equal_scores_keep_the_lower_row_first() -> None:
    database = np.repeat(unit(1), 5, axis=0)
    assert build_index(database, "Flat").search(database[:2], 5).rows.tolist() == [[0, 1, 2, 3, 4]] * 2


@pytest.mark.parametrize("k", [1, 3, 20, 39])
def test_equal_scores_at_the_end_of_the_list_keep_the_lower_row(k: int) -> None:
    """All forty candidates score alike: the first k rows stay, whatever k is."""
    database = np.repeat(unit(1), 40, axis=0)
    assert build_index(database, "Flat").search(database[:1], k).rows[0].tolist() == list(range(k))


def test_a_list_longer_than_the_database_is_as_long_as_the_database() -> None:
    ranking = build_index(unit(3), "Flat").search(unit(2, seed=1), 100)
    assert ranking.rows.shape == (2, 3)


def test_images_without_descriptor_are_never_found_and_find_nothing() -> None:
    database, queries = unit(6), unit(2, seed=1)
    database[[1, 4]] = 0
    queries[1] = 0
    ranking = build_index(database, "Flat").search(queries, 6)
    assert sorted(ranking.rows[0].tolist()) == [NO_ROW, NO_ROW, 0, 2, 3, 5]
    assert ranking.rows[1].tolist() == [NO_ROW] * 6


@pytest.mark.parametrize("factory", ["IVF8,Flat", "HNSW16", "SQ8", "PQ8x4", "IVF8,PQ8x4,RFlat"])
def test_other_factories_find_most_of_the_same(factory: str) -> None:
    database = unit(2000)
    queries = database[:50] + 0.02 * unit(50, seed=1)
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    ranking = build_index(database, factory).search(queries, 5, "nprobe=4" if factory.startswith("IVF") else "")
    assert np.mean(ranking.rows[:, 0] == np.arange(50)) > 0.9


@pytest.mark.parametrize(
    ("factory", "error", "reason"),
    [
        ("nonsense", ConfigError, "could not parse index string nonsense"),
        ("PQ7", ConfigError, "multiple of the number of subquantizers"),
        ("IVF4096,Flat", DataError, "needs at least 4096 images"),
    ],
)
def test_a_factory_that_cannot_be_is_explained(factory: str, error: type[Exception], reason: str) -> None:
    with pytest.raises(error, match=reason):
        build_index(unit(30), factory)


def test_unknown_search_parameters_are_refused() -> None:
    index = build_index(unit(30), "Flat")
    with pytest.raises(ConfigError, match="no parameter 'nprobe=4'"):
        index.search(unit(1), 3, "nprobe=4")
    with pytest.raises(ConfigError, match="no parameter 'nonsense'"):
        index.search(unit(1), 3, "nonsense")


def test_nothing_to_search() -> None:
    with pytest.raises(DataError, match="nothing can be searched"):
        build_index(np.zeros((4, 8), np.float32), "Flat")


@pytest.mark.skipif(gpu_count() > 0, reason="has a GPU")
def test_a_gpu_that_is_not_there_is_said_so() -> None:
    with pytest.raises(ConfigError, match="FAISS sees no GPU"):
        build_index(unit(4), "Flat", use_gpu=True)


@pytest.mark.gpu
@pytest.mark.skipif(gpu_count() == 0, reason="needs faiss-gpu and a GPU")
def test_the_gpu_finds_the_same() -> None:
    database, queries = unit(300), unit(20, seed=1)
    on_gpu = build_index(database, "Flat", use_gpu=True).search(queries, 10)
    assert np.array_equal(on_gpu.rows, build_index(database, "Flat").search(queries, 10).rows)


def test_saved_and_loaded(tmp_path: Path) -> None:
    database, queries = unit(50), unit(5, seed=1)
    database[7] = 0
    index = build_index(database, "IVF4,Flat")
    index.save(tmp_path / "index", {"descriptors": "abc"})
    again, manifest = load_index(tmp_path / "index")
    assert manifest["descriptors"] == "abc" and manifest["factory"] == "IVF4,Flat"
    assert np.array_equal(index.search(queries, 5).rows, again.search(queries, 5).rows)


def test_an_index_that_is_not_whole_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "index"
    with pytest.raises(DataError, match=r"no index\.json"):
        load_index(folder)
    build_index(unit(50), "Flat").save(folder, {})
    whole = (folder / "index.faiss").read_bytes()
    (folder / "index.faiss").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match="damaged index"):
        load_index(folder)
    faiss.write_index(faiss.IndexFlatIP(16), str(folder / "index.faiss"))
    with pytest.raises(DataError, match="holds 0 vectors, its manifest says 50"):
        load_index(folder)


def test_first_per_group_by_hand() -> None:
    rows = np.array([[5, 4, 0, 1, 2], [0, 1, NO_ROW, NO_ROW, NO_ROW]])
    scores = np.array([[5, 4, 3, 2, 1], [2, 1, -np.inf, -np.inf, -np.inf]], dtype=np.float32)
    kept = first_per_group(Ranking(rows, scores), np.array([7, 7, 8, 8, 9, 9]), 3)
    assert kept.rows.tolist() == [[5, 0, 2], [0, NO_ROW, NO_ROW]]
    assert kept.scores[0].tolist() == [5, 3, 1]


def test_one_per_group_goes_as_deep_as_it_must() -> None:
    """Twelve cut-outs of the best panorama fill the first twelve places, yet three panoramas are asked for."""
    groups = np.arange(48) // 12
    database = unit(48)
    query = database[5:6]
    similarity = database @ query[0]
    database[:12] = query  # one panorama full of perfect matches
    ranking = shortlist(build_index(database, "Flat"), query, 3, groups)
    best = {group: similarity[groups == group].max() for group in (1, 2, 3)}
    assert groups[ranking.rows[0]].tolist() == [0, *sorted(best, key=lambda group: -best[group])[:2]]


# --- an index that is kept


def test_an_index_is_read_only_if_the_same_made_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = faiss_index.Matrix(unit(300))
    made_by = {"descriptors": "a", "database": "b"}
    built = []
    plain = faiss_index.build_index
    monkeypatch.setattr(faiss_index, "build_index", lambda *args: built.append(args) or plain(*args))

    def asked(factory: str = "IVF4,Flat", **changes: str) -> Ranking:
        index = kept_index(tmp_path, vectors, factory, {**made_by, **changes})
        return index.search(vectors.rows[:5], 3, "nprobe=4")

    first = asked()
    assert np.array_equal(asked().rows, first.rows) and len(built) == 1
    asked(descriptors="other")
    asked(descriptors="other", database="other")
    asked("IVF2,Flat", descriptors="other", database="other")
    assert len(built) == 4
    (tmp_path / "index.faiss").write_bytes(b"damaged")
    asked("IVF2,Flat", descriptors="other", database="other")
    assert len(built) == 5


def test_blocks_give_the_index_of_the_whole_matrix() -> None:
    rows = unit(500, 8, seed=1)
    rows[[3, 250]] = 0

    class Blocks(faiss_index.Matrix):
        def blocks(self) -> Iterator[np.ndarray]:
            yield from np.array_split(self.rows, 7)

    for factory in ("Flat", "IVF8,Flat", "SQ8"):
        whole, by_block = build_index(rows, factory), build_index(Blocks(rows), factory)
        found, other = (each.search(rows[:20], 5, "nprobe=8" if "IVF" in factory else "") for each in (whole, by_block))
        assert np.array_equal(found.rows, other.rows) and np.array_equal(found.scores, other.scores)
        assert not np.isin([3, 250], found.rows).any()
