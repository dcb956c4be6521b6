"""Units of work: their results are those of one process, byte for byte, wherever they were computed."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from equal_maps import content_of
from maps import SMALL, write_images

from vpr import pipeline
from vpr.build import build
from vpr.cluster.staging import Staging
from vpr.core import DataError, Dataset, ImageError, ImageSet
from vpr.datasets import read_pair
from vpr.features.feature_set import FeatureFolders
from vpr.maps import Map, encoding, encoding_units, writing
from vpr.maps.encoding_units import unit_images
from vpr.maps.local_codec import PROFILES
from vpr.maps.sources import read_images
from vpr.pairs import ranking_units
from vpr.pairs.ranking import FirstPairs, rank_among
from vpr.rerank.resumable import ranking_arrays
from vpr.runtime.timing import Clock
from vpr.runtime.units import Computed, Workers, WorkUnit, in_parts
from vpr.settings import Settings, configured


class Elsewhere:
    """Workers that see only what can be sent to another machine, and compute the last unit first."""

    threads = 1

    def __init__(self) -> None:
        self.built = self.ended = 0
        self.computed: list[str] = []

    def compute(
        self, build: Callable[[], Any], units: Sequence[WorkUnit[Any]], *, kept: int = 1
    ) -> Generator[Computed, None, None]:
        sent = pickle.loads(pickle.dumps((build, list(units))))
        methods = sent[0]()
        self.built += 1
        found = {unit.key: unit.compute(methods).to_bytes() for unit in reversed(sent[1])}
        assert len(found) == len(units), "two units have one key"
        for unit in units:
            self.computed.append(unit.key)
            yield Computed.of_bytes(found[unit.key])
        self.ended += 1


def build_map(folder: Path, source: Path, workers: Any, segment_images: int = 8, **settings: Any) -> Any:
    """A map with a commit for each ``segment_images`` images."""
    held = Map.begin(folder, configured(None, {**SMALL, **settings}))
    root, placed = read_images(source, "none")
    how: Any = {"engine": held.engine, "profile": PROFILES["default"], "segment_images": segment_images}
    with writing.writing(folder) as manifest:
        added = writing.add(manifest, folder, placed, root, **how, workers=workers)
    held.close()
    return added


@pytest.fixture
def small_units(monkeypatch: pytest.MonkeyPatch) -> None:
    """Units of 4 images, a codec of the first 6 that can be read."""
    monkeypatch.setattr(encoding_units, "UNIT_IMAGES", 4)
    for module in (encoding, encoding_units):
        monkeypatch.setattr(module, "FITTED_ON", 6)


SMALL_BATCHES: dict[str, Any] = {"store": {"batch_size": 2}}


def with_bad_ones(folder: Path, count: int) -> Path:
    """Images of which the second, the fifth and the last are damaged."""
    write_images(folder, range(count))
    (folder / "001.png").write_bytes(b"")
    (folder / "004.png").write_bytes((folder / "004.png").read_bytes()[:100])
    (folder / f"{count - 1:03d}.png").write_bytes(b"no image")
    return folder


@pytest.mark.usefixtures("small_units")
@pytest.mark.parametrize("segment_images", [3, 8, 100])
def test_a_map_made_elsewhere_has_the_same_bytes(segment_images: int, tmp_path: Path) -> None:
    images = with_bad_ones(tmp_path / "images", 21)
    here = build_map(tmp_path / "here", images, None, segment_images, **SMALL_BATCHES)
    there = build_map(tmp_path / "there", images, Elsewhere(), segment_images, **SMALL_BATCHES)
    assert content_of(tmp_path / "here") == content_of(tmp_path / "there")
    assert here == there and sorted(there.failed) == ["001.png", "004.png", "020.png"]
    assert there.failed["001.png"] == f"{images / '001.png'}: the file is empty"


@pytest.mark.usefixtures("small_units")
def test_the_units_of_what_was_not_committed_are_the_same_after_a_commit(tmp_path: Path) -> None:
    """So what was computed of them before a kill is found again."""
    images = with_bad_ones(tmp_path / "images", 20)
    first, second = Elsewhere(), Elsewhere()
    build_map(tmp_path / "whole", images, first, **SMALL_BATCHES)
    held = Map.begin(tmp_path / "city", configured(None, {**SMALL, **SMALL_BATCHES}))
    (tmp_path / "city" / "codec.safetensors").write_bytes((tmp_path / "whole" / "codec.safetensors").read_bytes())
    root, placed = read_images(images, "none")
    held.add_placed(placed[:8], root)  # its first two units, of which two images are tried again
    with writing.writing(tmp_path / "city") as manifest:
        how: Any = {"engine": held.engine, "profile": PROFILES["default"], "segment_images": 8}
        writing.add(manifest, tmp_path / "city", placed, root, **how, workers=second)
    assert second.computed[-3:] == first.computed[-3:]
    assert len(Map(tmp_path / "city")) == 17


@pytest.mark.usefixtures("small_units")
def test_fail_at_a_bad_image_names_the_first(tmp_path: Path) -> None:
    images = with_bad_ones(tmp_path / "images", 8)
    with pytest.raises(ImageError, match=r"001\.png: the file is empty"):
        build_map(tmp_path / "city", images, Elsewhere(), images={"on_bad_image": "fail"}, **SMALL_BATCHES)


def test_a_folder_of_bad_images_makes_an_empty_map(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.png").write_bytes(b"")
    added = build_map(tmp_path / "city", tmp_path / "images", Elsewhere())
    assert (added.added, list(added.failed)) == (0, ["a.png"])


def test_images_that_a_worker_does_not_see_are_no_bad_images(tmp_path: Path) -> None:
    held = Map.begin(tmp_path / "city", configured(None, SMALL))
    unit = encoding_units.EncodingUnit("key", ImageSet(tmp_path / "elsewhere", ("000.png",)), None)
    with pytest.raises(DataError, match="needs it at the same path"):
        unit.compute(held.engine)


RUN: dict[str, Any] = {
    "machine": {"device": "cpu", "threads": 2},
    "local_features": {"method": "rootsift", "max_keypoints": 100},
    "global_descriptor": {"method": "thumbnail"},
    "store": {"batch_size": 2, "shard_size": 3},
    "rerank": {"k": 3},
}
JOINED: dict[str, Any] = {"joined": {"descriptor": {"method": "vlad", "clusters": 4}}}
TURNED: dict[str, Any] = {"rotations": {"degrees": [0, 90]}}


def outcome(dataset: Dataset, settings: Settings, folder: Path, workers: Workers | None) -> dict[str, Any]:
    """The files of features, byte for byte, and the rankings with their evidence; times apart."""
    engine, clock = build(settings), Clock()

    def place(role: str) -> FeatureFolders:
        return FeatureFolders.under(folder / "features" / role)

    features = pipeline.extract(dataset, engine, place, clock, workers=workers)
    matched = pipeline.match(dataset, features, engine, work=folder / "work", clock=clock, workers=workers)
    found: dict[str, Any] = {
        str(path.relative_to(folder)): path.read_bytes() for path in folder.glob("features/**/*") if path.is_file()
    }
    assert len(found) > 8
    for name, ranking in matched.stages.items():
        arrays = ranking_arrays(ranking)
        found |= {f"{name} {key}": array.tobytes() for key, array in arrays.items() if key != "elapsed_s"}
    return found


@pytest.mark.parametrize("more", [JOINED, TURNED])
def test_a_run_elsewhere_has_the_same_features_and_predictions(
    more: dict[str, Any], small_city: tuple[Path, Path], tmp_path: Path
) -> None:
    database, queries = small_city
    sorted(database.iterdir())[4].write_bytes(b"")
    dataset = read_pair(database, queries, 25.0)
    settings = configured(None, {**RUN, **more})
    workers, again = Elsewhere(), Elsewhere()
    there = outcome(dataset, settings, tmp_path / "there", workers)
    assert outcome(dataset, settings, tmp_path / "here", None) == there
    assert "reranked inliers" in there and len(workers.computed) > 8 and workers.ended == workers.built
    assert outcome(dataset, settings, tmp_path / "there", again) == there
    assert len(again.computed) == 2, "only the image that cannot be read is tried again, for both kinds of features"


def test_an_image_is_ranked_elsewhere_as_here(
    small_city: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranking_units, "UNIT_IMAGES", 3)
    database, queries = small_city
    sorted(database.iterdir())[4].write_bytes(b"")
    query, settings = sorted(queries.iterdir())[1], configured(None, RUN)
    workers = Elsewhere()
    tables = []
    for name, by in (("here", None), ("there", workers)):
        rank_among(query, database, settings, tmp_path / name, first=FirstPairs(), workers=by)
        tables.append((tmp_path / name / "ranking_score.csv").read_bytes())
    assert tables[0] == tables[1] and tables[0].count(b"\n") == 8
    assert len(workers.computed) == 3 + 3 and workers.ended == workers.built == 2


@pytest.mark.parametrize(("batch", "images"), [(1, 128), (16, 128), (48, 96), (128, 128), (200, 200)])
def test_units_hold_whole_batches(batch: int, images: int) -> None:
    assert unit_images(batch) == images


def test_parts_cover_all_numbers() -> None:
    assert in_parts(7, 3) == [range(0, 3), range(3, 6), range(6, 7)] and in_parts(0, 3) == []


def test_a_result_is_read_as_it_was_written() -> None:
    made = Computed({"a": np.arange(6).reshape(2, 3)}, {1: "é: empty"})
    read = Computed.of_bytes(made.to_bytes())
    assert (read.arrays["a"] == made.arrays["a"]).all() and read.failed == made.failed
    assert Computed.of_bytes(Computed({}).to_bytes()).arrays == {}
    for data in (b"", b"nonsense", made.to_bytes()[:-1]):
        with pytest.raises(DataError, match="not the result of a unit"):
            Computed.of_bytes(data)


@pytest.mark.parametrize("place", ["folder", "memory://staging"])
def test_staged_results(place: str, tmp_path: Path) -> None:
    name = place if "://" in place else str(tmp_path / place)
    staging = Staging(name)
    token = staging.begin()
    Staging(name).require(token, "this machine")
    staging.put("one", b"bytes")
    staging.put("two", b"")
    assert Staging(name).keys() == {"one", "two"}
    assert (staging.get("one"), staging.get("two"), staging.get("three")) == (b"bytes", b"", None)
    staging._write("one.unit", b"bytes and another checksum")
    assert staging.get("one") is None
    with pytest.raises(DataError, match="does not see what this machine writes"):
        staging.require("another", "node7")
    staging.delete("one")
    staging.delete("one")
    assert staging.keys() == {"two"}
    staging.end()
    assert not (tmp_path / place).exists() and staging.get("two") is None
