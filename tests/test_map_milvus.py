"""Maps searched by Milvus, against milvus-lite: the same answers as FAISS, and a collection that follows the map."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from maps import LATITUDE, LONGITUDE, SMALL, empty_map, small_map, view, write_images, write_positions

from vpr.core import ConfigError, DataError, SearchError
from vpr.maps import Map
from vpr.maps.filters import parse_filter
from vpr.maps.milvus import MilvusSettings
from vpr.maps.milvus.collection import MilvusCollection
from vpr.maps.milvus.expressions import NotExpressible, expression_of
from vpr.maps.milvus.search import MilvusSearch
from vpr.maps.prior import Prior
from vpr.maps.search import SegmentSearch

pytest.importorskip("pymilvus")
pytest.importorskip("milvus_lite")
pytestmark = pytest.mark.filterwarnings("default")  # of packages that are not ours

PLACES = 12
WHERES = [
    "heading > 30",
    "NOT heading > 30",
    "heading IS NULL",
    "heading IS NOT NULL AND NOT (heading BETWEEN 20 AND 60)",
    "heading NOT BETWEEN 20 AND 60 OR camera = 'left'",
    "camera = 'left'",
    "camera != 'left'",
    "NOT (camera = 'left' OR speed > 9)",
    "camera IN ('right', 'middle')",
    "camera NOT IN ('right', 'middle')",
    "speed > 4.5",
    "speed <= 4.5",
    "NOT speed <= 4.5",
    "speed > 'a'",
    "speed < 'a'",
    "speed IS NULL",
    "absent > 3",
    "NOT absent > 3",
    "absent IS NULL",
    "time >= '2024-05-01T04:00:00Z' AND time < '2024-05-01T09:00:00Z'",
    "\"group\" = 'drive1'",
    "\"group\" IN ('drive1', 'drive2') AND NOT \"group\" = 'drive2'",
    "\"group\" > 'drive1'",
    "id IN (2, 3, 5)",
    "id NOT BETWEEN 3 AND 7",
    "zone = '33U'",
    "zone IS NULL",
    "latitude > 55.7045",
    "name LIKE '00%'",
    "name = '003.png' OR heading > 80",
    "camera LIKE 'LEFT'",
    "camera = 'l\"eft' OR speed > 9",
]


@pytest.fixture(scope="module")
def city(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Map]:
    """A map in milvus-lite, of which one image has no position and one another kind of speed, and one is removed."""
    tmp_path = tmp_path_factory.mktemp("milvus")
    images = write_images(tmp_path / "images", range(PLACES))
    points = write_positions(tmp_path / "points.csv", range(PLACES))
    text = points.read_text().replace(",7.5\n", ",fast\n").replace("007.png,55.7063,13.2,70", "007.png,,,")
    points.write_text(text)
    search = {"method": "milvus", "uri": str(tmp_path / "city.db"), "index": "FLAT", "consistency": "Strong"}
    held = Map.create(tmp_path / "city", images, points, config=None, search=search, **SMALL)
    held.remove(["004.png"])
    yield held


def collection_of(city: Map) -> MilvusCollection:
    with city.reading() as (manifest, _):
        search = city._searching(manifest)
    assert isinstance(search, MilvusSearch)
    return search.collection


def vectors(city: Map, count: int = 4) -> np.ndarray[Any, Any]:
    return np.stack([city.features(view(place, 3)).vector for place in range(0, count * 2, 2)])


def by_faiss(city: Map, queries: np.ndarray[Any, Any], k: int, **prior: Any) -> list[list[tuple[int, float]]]:
    allowed = Prior.of(**{**dict.fromkeys(("near", "radius_m", "since", "until")), "where": "", **prior})
    with city.reading() as (manifest, snapshot):
        found = SegmentSearch().search(manifest, snapshot, queries, k, allowed)
        return [[(each.row, round(each.similarity, 4)) for each in some] for some in found]


def by_milvus(city: Map, queries: np.ndarray[Any, Any], k: int, **prior: Any) -> list[list[tuple[int, float]]]:
    found = city.shortlists(queries, k, **prior)
    rows = {image.id: image.row for image in city.images()}
    return [[(rows[each.id], round(each.similarity, 4)) for each in some] for some in found]


@pytest.mark.parametrize("where", WHERES)
def test_a_filter_allows_what_the_manifest_says(city: Map, where: str) -> None:
    queries = vectors(city)
    assert by_milvus(city, queries, PLACES, where=where) == by_faiss(city, queries, PLACES, where=where)


@pytest.mark.parametrize("where", WHERES)
def test_an_expression_alone_selects_the_same_ids(city: Map, where: str) -> None:
    """Not only after the check by the manifest, which mends what is too much, and cannot mend what is too little."""
    prior = Prior(where=parse_filter(where))
    try:
        expression = expression_of(prior)
    except NotExpressible:
        assert "name" in where or "LIKE" in where or '"eft' in where
        return
    with city.reading() as (manifest, _):
        wanted = {int(number) for number in prior.places(manifest)[:, 0]}
    collection = collection_of(city)
    assert {hit.id for hit in collection.search(vectors(city, 1), 100, f"({expression}) and id > 0")[0]} == wanted


@pytest.mark.parametrize("k", [1, 3, PLACES + 5])
def test_answers_are_those_of_faiss(city: Map, k: int) -> None:
    queries = vectors(city)
    assert by_milvus(city, queries, k) == by_faiss(city, queries, k)
    near = {"near": (LATITUDE + 0.0027, LONGITUDE), "radius_m": 250.0}
    assert by_milvus(city, queries, k, **near) == by_faiss(city, queries, k, **near)
    times = {"since": "2024-05-01T02:00:00Z", "until": "2024-05-01T08:00:00Z"}
    assert by_milvus(city, queries, k, **times, **near) == by_faiss(city, queries, k, **times, **near)


def test_many_queries_are_one_answer_each(city: Map, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the size of a request; a zero vector finds nothing."""
    queries = np.concatenate([vectors(city), np.zeros((1, vectors(city).shape[1]), np.float32), vectors(city)])
    monkeypatch.setattr("vpr.maps.milvus.collection.QUERIES_BYTES", 4 * queries.shape[1] * 2)
    found = by_milvus(city, queries, 5)
    assert found[4] == [] and found[:4] == found[5:] == by_faiss(city, queries[:4], 5)


def test_locate_reranks_what_milvus_found(city: Map) -> None:
    answer = city.locate(view(2, 3), near=(LATITUDE, LONGITUDE), radius_m=450)
    assert answer.candidates[0].name == "002.png" and answer.verified
    assert "004.png" not in {each.name for each in city.locate(view(4)).candidates}


def test_what_the_map_removed_is_never_answered(city: Map) -> None:
    """Even where Milvus still has it, and many such rows are more similar than what is left."""
    collection = collection_of(city)
    query = vectors(city, 1)
    wanted = by_faiss(city, query, 5)
    rows = [_stray(city, number, query[0]) for number in range(1000, 1040)]
    collection.put(rows)
    try:
        assert by_milvus(city, query, 5) == wanted
        assert "40 images (id 1000, 1001, 1002, ...)" in city.verify()[0]
    finally:
        assert city.repair() == [f"Milvus, collection {collection.name}: 0 images put, 40 deleted"]
    assert city.verify() == []


def _stray(city: Map, number: int, vector: np.ndarray[Any, Any]) -> dict[str, Any]:
    from vpr.maps.milvus.collection import marker

    return {**marker(len(vector), ""), "id": number, "vector": (2 * vector).tolist()}


def test_repair_mends_both_directions(tmp_path: Path) -> None:
    """Missing, superfluous, differing; and a row of an id that now is another image's is not taken for it."""
    held = small_map(tmp_path, search=_lite(tmp_path))
    collection = collection_of(held)
    collection.delete([2])
    collection.put([_stray(held, 3, vectors(held, 1)[0]), _stray(held, 99, vectors(held, 1)[0])])
    assert {each.id for each in held.shortlists(vectors(held, 1), 10)[0]} == {1, 4, 5, 6}
    wrong = " ".join(held.verify())
    assert "lacks 1 image (id 2)" in wrong and "else of 1 image (id 3)" in wrong and "1 image (id 99)" in wrong
    assert held.repair() == [f"Milvus, collection {collection.name}: 2 images put, 1 deleted"]
    assert held.verify() == []
    assert [each.id for each in held.shortlists(vectors(held, 1), 1)[0]] == [1]


def test_a_map_changes_its_search_and_back(tmp_path: Path) -> None:
    held = small_map(tmp_path)
    query = vectors(held, 2)
    wanted = [[each.id for each in some] for some in held.shortlists(query, 6)]
    assert "6 images put" in held.set_search(**_lite(tmp_path))[0]
    assert [[each.id for each in some] for some in held.shortlists(query, 6)] == wanted
    assert held.set_search(**{**_lite(tmp_path), "index": "HNSW", "query": {"ef": 50}}) == []
    assert "HNSW" in held.info().search and "[search.query]" in (held.folder / "map.toml").read_text()
    assert [[each.id for each in some] for some in Map(held.folder, device="cpu").shortlists(query, 6)] == wanted
    assert held.set_search() == [] and "[search" not in (held.folder / "map.toml").read_text()
    held.remove(["000.png"])  # Milvus does not follow now
    assert held.set_search(**_lite(tmp_path)) == [
        "Milvus, collection " + collection_of(held).name + ": 0 images put, 1 deleted"
    ]


def test_a_new_process_loads_the_collection(tmp_path: Path) -> None:
    from milvus_lite.server_manager import server_manager_instance

    held = small_map(tmp_path, 3, search=_lite(tmp_path))
    query = vectors(held, 1)
    for work in (Map.verify, lambda held: held.shortlists(query, 1), lambda held: held.remove(["002.png"])):
        server_manager_instance.release_server(str(tmp_path / "city.db"))
        work(Map(held.folder, device="cpu"))  # type: ignore[operator]
    assert Map(held.folder, device="cpu").verify() == []


def test_probing_that_finds_too_few_is_not_the_end(city: Map, monkeypatch: pytest.MonkeyPatch) -> None:
    """As an inverted file does whose probed lists hold three images."""
    search = MilvusCollection.search

    def probing(self: MilvusCollection, *arguments: Any, exhaustive: bool = False) -> Any:
        found = search(self, *arguments, exhaustive=exhaustive)
        return found if exhaustive else [hits[:3] for hits in found]

    monkeypatch.setattr(MilvusCollection, "search", probing)
    queries = vectors(city)
    assert by_milvus(city, queries, 8) == by_faiss(city, queries, 8)
    assert by_milvus(city, queries, 2) == by_faiss(city, queries, 2)
    assert by_milvus(city, queries, 8, where="id > 1") == by_faiss(city, queries, 8, where="id > 1")


def test_new_positions_and_replaced_images_follow(tmp_path: Path) -> None:
    held = small_map(tmp_path, search=_lite(tmp_path))
    points = write_positions(tmp_path / "points.csv", range(6))
    points.write_text(points.read_text().replace("003.png,55.7027", "003.png,56.7"))
    write_images(tmp_path / "images", range(2, 3))
    (tmp_path / "images/001.png").write_bytes((tmp_path / "images/005.png").read_bytes())
    added = held.add(tmp_path / "images", points)
    assert (added.updated, added.replaced) == (1, 1)
    assert held.verify() == []
    assert [each.name for each in held.shortlists(vectors(held, 1), 9, near=(56.7, LONGITUDE))[0]] == ["003.png"]
    assert {each.id for each in held.shortlists(vectors(held, 1), 9)[0]} == {1, 3, 4, 5, 6, 7}


def test_what_is_not_this_maps_collection_is_refused(tmp_path: Path) -> None:
    held = small_map(tmp_path / "one", search={**_lite(tmp_path), "collection": "places"})
    other = small_map(tmp_path / "two")
    with pytest.raises(SearchError, match=r"collection places at .* is of another map"):
        other.set_search(**{**_lite(tmp_path), "collection": "places"})
    assert other.about.search == {} and other.shortlists(vectors(other, 1), 1)[0]
    wide = small_map(tmp_path / "wide", 3, global_descriptor={"method": "thumbnail", "width": 8, "height": 8})
    with pytest.raises(SearchError, match="vectors of 512 components, this map of 64"):
        wide.set_search(**{**_lite(tmp_path), "collection": "places"})
    client = collection_of(held)._client
    client.create_collection("plain", dimension=512)
    with pytest.raises(SearchError, match=r"collection plain at .* was not made by vpr"):
        other.set_search(**{**_lite(tmp_path), "collection": "plain"})
    collection_of(held).drop()
    with pytest.raises(SearchError, match=r"no collection places; `vpr map verify .* --repair` makes it again"):
        Map(held.folder, device="cpu").shortlists(vectors(held, 1), 1)
    with pytest.raises(SearchError, match="--repair"):  # before anything is extracted or committed
        held.remove(["001.png"])
    assert "6 images put" in held.repair()[0] and len(held) == 6


def test_a_file_that_another_process_has_is_refused(tmp_path: Path) -> None:
    (tmp_path / "city.db").mkdir()
    code = f"import fcntl; lock = open({str(tmp_path / 'city.db/LOCK')!r}, 'w'); fcntl.flock(lock, fcntl.LOCK_EX); "
    with subprocess.Popen([sys.executable, "-c", code + "print(1, flush=True); input()"], **_PIPES) as other:
        assert other.stdout is not None and other.stdout.readline() == "1\n"
        with pytest.raises(SearchError, match="milvus-lite lets one process have a file"):
            empty_map(tmp_path / "city").set_search(**_lite(tmp_path))
        other.communicate("\n")


_PIPES: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}


def test_a_server_that_is_away_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And what was committed stands; a token is in no message and in no file."""
    held = small_map(tmp_path)
    monkeypatch.setenv("VPR_MILVUS_TOKEN", "secret-of-the-server")
    away = {"method": "milvus", "uri": "http://127.0.0.1:9", "timeout_s": 1}
    with pytest.raises(SearchError, match=r"does not answer .*VPR_MILVUS_URI") as caught:
        held.set_search(**away)
    assert "secret" not in str(caught.value)
    held.set_search(**_lite(tmp_path))
    monkeypatch.setattr(MilvusCollection, "delete", _unreachable)
    with pytest.raises(SearchError, match=r"The map has the change \(commit \d+\), Milvus not yet: `vpr map verify"):
        held.remove(["001.png"])
    assert len(held) == 5 and "001.png" not in {each.name for each in held.shortlists(vectors(held, 1), 9)[0]}
    assert "has, and the map has not, 1 image (id 2)" in held.verify()[0]
    monkeypatch.setenv("VPR_MILVUS_URI", "http://127.0.0.1:9")
    assert "does not answer" in Map(held.folder, device="cpu").verify()[0]
    assert not any(b"secret" in path.read_bytes() for path in held.folder.rglob("*") if path.is_file())


def _unreachable(self: MilvusCollection, numbers: list[int]) -> None:
    raise SearchError("Milvus at http://host does not answer")


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"uri": "http://root:Milvus@host:1"}, "VPR_MILVUS_TOKEN"),
        ({"uri": "host:19530"}, "http://HOST:19530"),
        ({"index": "HNSW", "query": {"nprobe": 3}}, "the index HNSW takes ef"),
        ({"index": "hnsw"}, "FLAT"),
        ({"collection": "my city"}, "collection"),
        ({"consistency": "strong"}, "Strong"),
        ({"token": "x"}, "unknown"),
        ({}, "VPR_MILVUS_URI"),
        ({"uri": "http://host:1", "token_file": "nowhere"}, "no token can be read"),
    ],
)
def test_settings_that_make_no_sense(
    tmp_path: Path, settings: dict[str, Any], sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = empty_map(tmp_path / "city")
    with pytest.raises(ConfigError, match=sentence):
        held.set_search("milvus", **settings)
    assert held.about.search == {}


def test_a_name_alone_in_map_toml_is_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held = small_map(tmp_path, 3)
    path = held.folder / "map.toml"
    text = path.read_text()
    path.write_text('search = "milvus"\n' + text)
    monkeypatch.setenv("VPR_MILVUS_URI", str(tmp_path / "city.db"))
    with Map(held.folder, device="cpu") as again:
        assert "--repair` makes it again" in again.verify()[0]
        assert "3 images put" in again.repair()[0] and again.verify() == []
        assert collection_of(again).identity
    monkeypatch.delenv("VPR_MILVUS_URI")
    assert Map(held.folder).info().search.endswith("no server named")
    path.write_text("search = 3\n" + text)
    with pytest.raises(DataError, match=r"search = 3; write it as a section"):
        Map(held.folder)


def test_a_missing_package_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vpr.maps.milvus.collection.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install pymilvus milvus-lite, or pip install 'vpr\[cluster\]'"):
        empty_map(tmp_path / "city").set_search("milvus", uri=str(tmp_path / "city.db"))


def test_nothing_imports_pymilvus_before_it_is_used() -> None:
    root = Path(__file__).parents[1] / "vpr"
    heads = [line for path in root.rglob("*.py") for line in path.read_text().splitlines() if "pymilvus" in line]
    imports = [line for line in heads if line.lstrip().startswith(("import ", "from "))]
    assert imports and all(line.startswith("    ") for line in imports)


def test_indexes_get_their_parameters() -> None:
    ivf = MilvusSettings(index="IVF_SQ8", build={"nlist": 64}, query={"nprobe": 8})
    assert ivf.query_parameters(10) == {"nprobe": 8} and ivf.query_parameters(10, exhaustive=True) == {"nprobe": 64}
    assert MilvusSettings(index="IVF_FLAT", build={"nlist": 16}).query_parameters(10) == {"nprobe": 16}
    assert MilvusSettings(index="HNSW").query_parameters(500) == {"ef": 500}
    assert MilvusSettings(index="HNSW").query_parameters(50, exhaustive=True) == {"ef": 1024}
    assert MilvusSettings(index="FLAT").build_parameters == {}


def _lite(tmp_path: Path) -> dict[str, Any]:
    return {"method": "milvus", "uri": str(tmp_path / "city.db"), "index": "FLAT", "consistency": "Strong"}


def test_a_server_of_http_says_503_and_names_no_machine(tmp_path: Path) -> None:
    pytest.importorskip("fastapi")
    from vpr.serve.limits import Limits
    from vpr.serve.service import Service

    held = empty_map(tmp_path / "city")
    problem = Service(held, Limits(1e6, 1, 1, 1)).failed(SearchError("Milvus at http://10.0.0.7 does not answer"))
    assert (problem.status, problem.kind) == (503, "SearchError") and "10.0.0.7" not in str(problem)
