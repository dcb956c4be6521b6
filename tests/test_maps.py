"""The persistent map: what it holds after any change, what it answers, and whom it refuses."""

from __future__ import annotations

import csv
import json
import shutil
import sqlite3
import threading
from pathlib import Path

import numpy as np
import pytest
from conftest import write_picture
from maps import LATITUDE, LONGITUDE, SMALL, empty_map, small_map, view, write_images, write_positions

import vpr
from vpr.core import ConfigError, DataError, ImageError
from vpr.datasets.kapture_tree import read_kapture
from vpr.datasets.placed import PlacedImage
from vpr.datasets.placed_csv import by_csv
from vpr.maps import Map, compacting, vectors, writing
from vpr.maps.export import export
from vpr.maps.segments import StoredLocal, write_segment


def names(held: Map) -> list[str]:
    return [image.name for image in held.images()]


@pytest.fixture(scope="module")
def city(tmp_path_factory: pytest.TempPathFactory) -> Map:
    """Six places; not to be changed."""
    return small_map(tmp_path_factory.mktemp("map"))


def test_a_photograph_is_located_with_its_evidence(city: Map) -> None:
    answer = city.locate(view(3, shift=8))
    assert answer.here and answer.candidates[0].name == "003.png"
    assert answer.position is not None and answer.position.latitude == pytest.approx(LATITUDE + 0.0027)
    assert answer.position.zone == "33N" and answer.position.metres is not None
    first, second = answer.candidates[:2]
    assert first.inliers is not None and first.inliers > 5 * max(1, second.inliers or 0)
    assert first.columns == {"camera": "left", "speed": 4.5} and first.heading == 30 and first.group == "drive0"
    assert json.loads(json.dumps(answer.to_json()))["candidates"][0]["name"] == "003.png"


def test_a_photograph_of_another_place_is_not_here(city: Map) -> None:
    answer = city.locate(view(77))
    assert not answer.here and str(answer).startswith("not here")


def test_a_blank_photograph_and_an_empty_prior_have_no_false_answer(city: Map) -> None:
    assert not city.locate(np.zeros((120, 160, 3), np.uint8)).here
    answer = city.locate(view(3), near=(0.0, 0.0), radius_m=10)
    assert answer.candidates == () and answer.position is None and answer.probability == 0.0 and not answer.here


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"near": (LATITUDE, LONGITUDE), "radius_m": 150}, {"000.png", "001.png"}),
        ({"near": (LATITUDE, LONGITUDE), "radius_m": 250, "where": "camera = 'right'"}, {"000.png", "002.png"}),
        ({"since": "2024-05-01T04:00:00Z"}, {"004.png", "005.png"}),
        ({"until": "2024-05-01T00:30:00Z"}, {"000.png"}),
        ({"where": "heading BETWEEN 10 AND 20 OR speed >= 7.5"}, {"001.png", "002.png", "005.png"}),
        ({"where": "NOT name LIKE '00_.png'"}, set()),
        ({"where": "\"group\" = 'drive1' AND time < '2024-05-01T04:30:00'"}, {"004.png"}),
        ({"where": "camera IS NULL OR zone IN ('32N', '31N')"}, set()),
    ],
)
def test_a_prior_restricts_the_candidates(city: Map, arguments: dict[str, object], expected: set[str]) -> None:
    answer = city.locate(view(3), k=10, **arguments)  # type: ignore[arg-type]
    assert {each.name for each in answer.candidates} == expected


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"radius_m": 10}, "give near"),
        ({"near": (100.0, 0.0)}, "latitude"),
        ({"near": (1.0, 1.0), "radius_m": -1}, "metres, more than 0"),
        ({"since": "yesterday"}, "2024-01-31T23:59:59Z"),
        ({"where": "name = 'a'; DROP TABLE images"}, "cannot be read"),
        ({"where": "name = (SELECT 1)"}, "expected a number"),
        ({"where": "name ="}, "found 'the end'"),
        ({"where": "(" * 200 + "id = 1" + ")" * 200}, "inside each other"),
        ({"k": 0}, "at least one"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(city: Map, arguments: dict[str, object], said: str) -> None:
    with pytest.raises((ConfigError, DataError), match=said.replace("(", r"\(")):
        city.locate(view(0), **arguments)  # type: ignore[arg-type]


def test_a_photograph_that_cannot_be_read_is_named(city: Map, tmp_path: Path) -> None:
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff but no more")
    with pytest.raises(ImageError, match=r"broken\.jpg"):
        city.locate(tmp_path / "broken.jpg")


def test_adding_and_removing_change_what_is_found(tmp_path: Path) -> None:
    held = small_map(tmp_path, 3)
    reader = Map(held.folder)  # another one, which sees every commit
    assert not reader.locate(view(4, 6)).here
    added = held.add(write_images(tmp_path / "more", range(3, 6)), "none")
    assert (added.added, added.known, added.failed) == (3, 0, {})
    assert reader.locate(view(4, 6)).candidates[0].name == "004.png" and len(reader) == 6
    assert held.remove(["004.png"]) == 1
    assert not reader.locate(view(4, 6)).here and len(reader) == 5
    assert held.verify() == []


def test_adding_again_costs_nothing_and_repairs_what_changed(tmp_path: Path) -> None:
    held = small_map(tmp_path, 3)
    before = {image.name: image.id for image in held.images()}
    write_picture(tmp_path / "images" / "001.png", view(40))
    shifted = write_positions(tmp_path / "points.csv", range(3))
    shifted.write_text(shifted.read_text().replace("13.2,0,", "13.3,0,"))
    added = held.add(tmp_path / "images", shifted)
    assert (added.added, added.replaced, added.known, added.updated) == (0, 1, 2, 1)
    after = {image.name: image for image in held.images()}
    assert after["000.png"].id == before["000.png"] and after["001.png"].id != before["001.png"]
    assert after["000.png"].position is not None and after["000.png"].position.longitude == 13.3
    assert held.locate(view(40)).candidates[0].name == "001.png" and not held.locate(view(1)).here
    found = held.locate(view(0), near=(LATITUDE, 13.3), radius_m=5)
    assert [each.name for each in found.candidates] == ["000.png"]
    assert held.verify() == []


def test_a_bad_image_is_named_and_left_out(tmp_path: Path) -> None:
    images = write_images(tmp_path / "images", range(3))
    (images / "001.png").write_bytes(b"no image")
    held = empty_map(tmp_path / "city")
    added = held.add(images, "none")
    assert added.added == 2 and list(added.failed) == ["001.png"] and names(held) == ["000.png", "002.png"]


def test_compaction_changes_no_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writing, "SEGMENT_IMAGES", 2)
    held = empty_map(tmp_path / "city")
    images = write_images(tmp_path / "images", range(8))
    with writing.writing(held.folder) as manifest:
        from vpr.maps.local_codec import PROFILES
        from vpr.maps.sources import read_images

        root, placed = read_images(images, "none")
        writing.add(
            manifest, held.folder, placed, root, engine=held.engine, profile=PROFILES["default"], segment_images=2
        )
    held.remove(["002.png", "007.png"])
    before = [[(c.name, c.similarity, c.inliers) for c in held.locate(view(i, 6)).candidates] for i in range(8)]
    assert held.info().segments == 4
    done = held.compact()
    assert (done.before, done.after, done.dropped) == (4, 1, 2)
    after = [[(c.name, c.similarity, c.inliers) for c in held.locate(view(i, 6)).candidates] for i in range(8)]
    assert after == before and held.verify() == []
    assert [path.name for path in (held.folder / "segments").iterdir()] == ["000005"]
    held.remove(where="id > 0")
    assert held.compact().after == 0 and len(held) == 0 and held.locate(view(1)).candidates == ()


def test_sketches_find_what_an_exact_search_finds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (vectors, compacting):
        monkeypatch.setattr(module, "SKETCHED_ROWS", 4)
    held = small_map(tmp_path, 16)  # as many as a codebook has words
    done = held.compact()
    with held._reader.reading() as (_, snapshot):
        (segment,) = snapshot.segments.values()
        assert vectors.has_sketches(segment.vectors)
        for place in range(8):
            query = held.features(view(place, 4)).vector
            exact = [each.row for each in snapshot.search(query, 16, refined=0)]
            assert exact[0] == place and sorted(exact) == list(range(16))
            among = {segment.record.id: np.array([1, place])}
            assert {each.row for each in snapshot.search(query, 16, among)} == {1, place}
    assert done.recall is None or done.recall[1] > 0
    again = held.compact()
    assert not again.trained and held.verify() == []


def test_a_map_that_has_drifted_gets_a_new_codebook(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (vectors, compacting):
        monkeypatch.setattr(module, "SKETCHED_ROWS", 100)
    held = empty_map(tmp_path)
    dim = 64
    random = np.random.default_rng(0)

    def grow(count: int, axes: slice) -> compacting.Compacted:
        """Images without keypoints, whose descriptors have values on these axes."""
        rows = np.zeros((count, dim), np.float32)
        rows[:, axes] = random.standard_normal(rows[:, axes].shape, dtype=np.float32)
        codec = vectors.VectorCodec(dim)
        codes = codec.encode(rows / np.linalg.norm(rows, axis=1, keepdims=True))
        with writing.writing(held.folder) as manifest:
            local = StoredLocal([], [(0, 64, 48)] * count, 64)
            record = write_segment(held.folder, manifest.next_segment(), codec, codes, local)
            with manifest.writing():
                manifest.put_segment(record)
                first = len(held)
                images = [PlacedImage(f"{first + row}.jpg", None) for row in range(count)]
                manifest.insert(images, [""] * count, record.id)
        return held.compact()

    one, other = slice(0, dim // 2), slice(dim // 2, dim)
    assert grow(150, one).trained
    assert not grow(150, one).trained  # more of the same
    (held.folder / "quantiser.npy").write_bytes(b"of a former map")
    assert grow(250, other).trained  # what the codebook has never seen
    assert not held.compact().trained and held.verify() == []
    assert not (held.folder / "quantiser.npy").exists()


def test_the_second_writer_is_told_so(tmp_path: Path) -> None:
    held = small_map(tmp_path, 2)
    with writing.writing(held.folder), pytest.raises(DataError, match="another process is changing this map"):
        Map(held.folder).remove(["000.png"])
    assert held.remove(["000.png"]) == 1


def test_a_reader_keeps_its_state_while_another_compacts(tmp_path: Path) -> None:
    held = small_map(tmp_path, 4)
    other = Map(held.folder)
    with held._reader.reading() as (manifest, snapshot):
        other.remove(["000.png"])
        other.add(write_images(tmp_path / "more", range(4, 6)), "none")
        other.compact()
        found = snapshot.search(held.features(view(0)).vector, 1)
        assert manifest.at_rows([(found[0].segment, found[0].row)])[0].name == "000.png"
        assert snapshot.segments[found[0].segment].features(found[0].row, held.codec).keypoints.shape[1] == 2
    assert names(held) == ["001.png", "002.png", "003.png", "004.png", "005.png"]


def test_threads_ask_while_a_writer_works(tmp_path: Path) -> None:
    held = small_map(tmp_path, 4)
    more = write_images(tmp_path / "more", range(4, 8))
    features = held.features(view(2, 6))
    wrong: list[object] = []

    def ask() -> None:
        for _ in range(20):
            answer = held.locate(features)
            if answer.candidates[0].name != "002.png" or answer.images not in (4, 8, 7):
                wrong.append(answer)

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    Map(held.folder).add(more, "none")
    held.remove(["003.png"])
    held.compact()
    for thread in threads:
        thread.join()
    assert wrong == [] and len(held) == 7


def test_leftovers_of_a_killed_writer_are_deleted_by_the_next(tmp_path: Path) -> None:
    held = small_map(tmp_path, 2)
    (segment,) = (held.folder / "segments").iterdir()
    shutil.copytree(segment, held.folder / "segments" / "000099")
    (segment / "vectors-7.faiss").write_bytes(b"half")
    assert held.verify() == [] and len(Map(held.folder)) == 2
    held.remove(["000.png"])
    assert [path.name for path in (held.folder / "segments").iterdir()] == [segment.name]
    assert not (segment / "vectors-7.faiss").exists()


@pytest.mark.parametrize("name", ["local.npy", "rows.npy", "vectors-0.faiss"])
def test_a_changed_byte_is_found(tmp_path: Path, name: str) -> None:
    held = small_map(tmp_path, 2)
    held.close()
    (path,) = held.folder.glob(f"segments/*/{name}")
    data = bytearray(path.read_bytes())
    data[-20] ^= 1
    path.write_bytes(data)
    assert [name in problem for problem in held.verify()] == [True]
    path.write_bytes(data[:-1])
    with pytest.raises(DataError, match="the manifest says"):
        Map(held.folder)


def test_what_is_no_map_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no map lies here"):
        Map(tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(DataError, match="holds something that is no map"):
        empty_map(tmp_path)
    held = small_map(tmp_path / "a", 2)
    held.close()
    for leftover in held.folder.glob("manifest.sqlite*"):
        leftover.unlink()
    (held.folder / "manifest.sqlite").write_bytes(b"x" * 4096)
    with pytest.raises(DataError, match="damaged"):
        Map(held.folder)


def test_a_map_goes_on_with_the_same_settings_only(tmp_path: Path) -> None:
    held = small_map(tmp_path, 2)
    again = small_map(tmp_path, 3)
    assert names(again) == ["000.png", "001.png", "002.png"]
    other = {"local_features": {**SMALL["local_features"], "max_keypoints": 100}}
    with pytest.raises(DataError, match="made with other settings"):
        small_map(tmp_path, 3, **other)
    assert len(held) == 3


def test_a_map_goes_on_when_vpr_has_got_more_settings(tmp_path: Path) -> None:
    """A key that a former version did not know has its default."""
    held = small_map(tmp_path, 2)
    path = held.folder / "map.toml"
    path.write_text("\n".join(line for line in path.read_text().split("\n") if not line.startswith("max_iterations")))
    assert len(small_map(tmp_path, 3)) == 3


def test_settings_that_a_map_cannot_use_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"global_descriptor\.weights"):
        small_map(tmp_path, 2, global_descriptor={"method": "vlad"})
    with pytest.raises(ConfigError, match=r"images\.masks"):
        small_map(tmp_path, 2, images={"masks": "auto"})
    with pytest.raises(ConfigError, match="at most 1024 dimensions"):
        small_map(tmp_path, 2, global_descriptor={"method": "thumbnail"})


def test_an_unknown_name_removes_nothing(tmp_path: Path) -> None:
    held = small_map(tmp_path, 2)
    with pytest.raises(DataError, match=r"no image 'x\.png'"):
        held.remove(["000.png", "x.png"])
    with pytest.raises(ConfigError, match="name the images"):
        held.remove()
    assert len(held) == 2


@pytest.mark.parametrize("form", ["csv", "places", "geojson", "kapture"])
def test_exports_are_read_by_others(city: Map, tmp_path: Path, form: str) -> None:
    out = tmp_path / f"out.{form}"
    assert export(city.images(), out, form) == 6
    if form == "csv":
        rows = list(csv.DictReader(out.read_text().splitlines()))
        assert rows[1]["camera"] == "left" and float(rows[1]["latitude"]) == pytest.approx(LATITUDE + 0.0009)
        assert rows[1]["time"] == "2024-05-01T01:00:00Z"
    elif form == "places":
        held = {image.name: image for image in city.images()}
        out.rename(out.with_suffix(".csv"))
        for image in by_csv(city.folder.parent / "images", list(held), out.with_suffix(".csv")):
            stored = held[image.name]
            assert image.position is not None and stored.position is not None
            assert image.position.degrees == stored.position.degrees and image.time == stored.time
    elif form == "geojson":
        first = json.loads(out.read_text())["features"][0]
        assert first["geometry"] == {"type": "Point", "coordinates": [LONGITUDE, LATITUDE]}
    else:
        found = read_kapture(out)
        assert found.names[2] == "002.png" and found.zone == "33N" and found.positions is not None
        step = np.diff(found.positions[:, 1])
        assert step == pytest.approx(100.2, abs=0.3)


def test_manifest_names_a_newer_format(tmp_path: Path) -> None:
    held = small_map(tmp_path, 2)
    held.close()
    with sqlite3.connect(held.folder / "manifest.sqlite") as database:
        database.execute("UPDATE facts SET value = 99 WHERE key = 'format'")
    with pytest.raises(DataError, match="format 99"):
        Map(held.folder)


def test_the_public_name_is_lazy() -> None:
    assert vpr.Map is Map and "Map" in vpr.__all__
