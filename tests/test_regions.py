"""A query is searched in its own region, as in the cities of MSLS."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from conftest import textured, write_picture
from test_datasets_msls import write_side

from vpr import pipeline
from vpr.config import load
from vpr.core import NO_ROW, DataError, Dataset, ImageSet, Ranking
from vpr.datasets import judge, protocol
from vpr.datasets.msls import read_msls
from vpr.evaluation.identity import truth_digest
from vpr.index import build_index, own_region, region_indexes, shortlist
from vpr.positives import positives_within
from vpr.report.dataset_file import read_dataset, write_dataset
from vpr.settings import Settings


def unit(count: int, seed: int) -> np.ndarray:
    vectors = np.random.default_rng(seed).normal(size=(count, 8)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


class Blocks:
    """Descriptors that come in several blocks."""

    def __init__(self, rows: np.ndarray, size: int) -> None:
        self.rows, self.size, self.dim = rows, size, rows.shape[1]

    def __len__(self) -> int:
        return len(self.rows)

    def blocks(self):
        for first in range(0, len(self.rows), self.size):
            yield self.rows[first : first + self.size]


REGIONS = np.array([5, 2, 2, 5, 2, 5, 5, 2, 2, 5])  # of the database, mixed


@pytest.mark.parametrize("groups", [None, np.arange(10) // 2])
def test_search_in_regions_is_that_of_each_region_alone(groups: np.ndarray | None) -> None:
    database, queries = unit(10, 0), unit(6, 1)
    of_queries = np.array([2, 5, 2, 9, 5, 2])
    indexes = region_indexes(Blocks(database, 3), REGIONS, lambda vectors, rows: build_index(vectors, "Flat"))
    found = indexes.search(queries, of_queries, 4, groups, "")
    for query, region in enumerate(of_queries):
        own = np.flatnonzero(REGIONS == region)
        if not len(own):  # a region without database images
            assert (found.rows[query] == NO_ROW).all()
            continue
        index = build_index(database[own], "Flat")
        alone = shortlist(index, queries[query : query + 1], 4, None if groups is None else groups[own])
        kept = alone.rows[0] != NO_ROW
        assert found.rows[query][kept].tolist() == own[alone.rows[0][kept]].tolist()
        assert found.scores[query].tolist() == alone.scores[0].tolist()


def test_a_list_longer_than_a_region_is_padded() -> None:
    indexes = region_indexes(Blocks(unit(10, 0), 4), REGIONS, lambda vectors, rows: build_index(vectors, "Flat"))
    found = indexes.search(unit(1, 1), np.array([2]), 100, None, "")
    assert found.rows.shape == (1, 10) and (found.rows[0] != NO_ROW).sum() == 5


def test_a_given_shortlist_keeps_candidates_of_the_region() -> None:
    given = Ranking(
        np.array([[0, 1, 3, NO_ROW], [4, 3, 2, 1]]), np.array([[4, 3, 2, -np.inf], [4, 3, 2, 1]], np.float32)
    )
    kept = own_region(given, REGIONS, np.array([5, 2]))
    assert kept.rows.tolist() == [[0, 3, NO_ROW, NO_ROW], [4, 2, 1, NO_ROW]]
    assert kept.scores.tolist() == [[4, 2, -np.inf, -np.inf], [4, 2, 1, -np.inf]]


def images(names: list[str], regions: list[int] | None = None) -> ImageSet:
    positions = np.zeros((len(names), 2))
    return ImageSet(Path("root"), tuple(names), positions, regions=None if regions is None else np.array(regions))


def test_positives_lie_in_the_region_of_their_query() -> None:
    found = positives_within(images(["a", "b"], [0, 1]), images(["c", "d", "e"], [1, 0, 1]), 5)
    assert [rows.tolist() for rows in found] == [[1], [0, 2]]


def test_one_side_with_regions_is_refused() -> None:
    with pytest.raises(DataError, match="regions of both database and queries"):
        Dataset("x", "", images(["a"], [0]), images(["b"]))
    with pytest.raises(DataError, match="1 images but 2 region numbers"):
        images(["a"], [0, 1])


def city(name: str) -> list[str]:
    return [f"./MSLS/train_val/{name}/{side}/images/{name}{side}.jpg" for side in ("database", "query")]


def test_the_official_protocol_of_msls_takes_cities_from_the_names_where_no_reader_gave_them() -> None:
    sides = zip(city("cph"), city("sf"), strict=True)
    database, queries = (images(list(names)) for names in sides)
    judged = judge(Dataset("lists", "", database, queries), protocol("msls-val@official"))
    assert judged.database.regions.tolist() == judged.queries.regions.tolist() == [0, 1]
    assert [rows.tolist() for rows in judged.positives] == [[0], [1]]
    joined = judge(judged, protocol("msls-val@11k"))
    assert joined.database.regions is joined.queries.regions is None
    with pytest.raises(DataError, match="nothing says which city 'a' is of"):
        judge(Dataset("folders", "", images(["a"]), images(["b"])), protocol("msls-val@official"))


def test_recalls_within_regions_and_over_all_are_told_apart(tmp_path: Path) -> None:
    apart = Dataset("x", "", images(["a", "b"], [0, 1]), images(["c"], [1]), (np.array([1]),))
    write_dataset(tmp_path / "dataset.json", apart)
    read = read_dataset(tmp_path / "dataset.json")
    assert read.database.regions.tolist() == [0, 1] and read.queries.regions.tolist() == [1]
    together = Dataset("x", "", images(["a", "b"]), images(["c"]), (np.array([1]),))
    assert truth_digest(read) == truth_digest(apart) != truth_digest(together)


def test_a_run_on_two_cities_is_that_of_each_city(tmp_path: Path) -> None:
    for start, name in ((0, "cph"), (20, "sf")):
        for side, count, first in (("database", 6, start), ("query", 4, start + 3)):
            folder = tmp_path / "train_val" / name / side
            keys = [f"{name}{side}{i}" for i in range(count)]
            write_side(folder, [(key, 50 * i, 0, False, True) for i, key in enumerate(keys)])
            for i, key in enumerate(keys):
                write_picture(folder / "images" / f"{key}.jpg", textured(first + i, 60, 80))
    settings = load(Settings, None, ["global_descriptor.method=thumbnail", "rerank.k=0", "shortlist.k=10"])
    both, *alone = (
        pipeline.run(read_msls(tmp_path, cities), settings, tmp_path / "-".join(cities), {})
        for cities in (["cph", "sf"], ["cph"], ["sf"])
    )
    (ranking,) = both.stages.values()
    names = np.array([*both.dataset.database.names, ""])[ranking.rows]
    row = 0
    for run in alone:
        (own,) = run.stages.values()
        expected = np.array([*run.dataset.database.names, ""])[own.rows]
        here = names[row : row + len(own)]
        assert (here[:, : own.width] == expected).all() and (here[:, own.width :] == "").all()
        row += len(own)
    hits = [run.summary.recalls["shortlist"].over_all[0].value * len(run.dataset.queries) for run in alone]
    assert both.summary.recalls["shortlist"].over_all[0].value * row == pytest.approx(sum(hits))
