"""Files of other programs: written and read, the numbers by hand, and what is refused."""

from __future__ import annotations

import sqlite3
import sys
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from conftest import textured, write_picture
from test_hostile import call

from vpr.core import ConfigError, DataError, Dataset, ImageSet, Ranking
from vpr.exchange import hloc
from vpr.exchange.colmap_database import ColmapImage, ColmapPair, pair_id, write_colmap
from vpr.exchange.hloc import HlocFeatures, HlocFile, pair_key
from vpr.exchange.models import in_other_pixels, scaling, shift
from vpr.report.msls_challenge import read_msls_challenge, write_msls_challenge
from vpr.report.pairs import names_in_pairs

h5py = pytest.importorskip("h5py")


def some(count: int, size: tuple[int, int] = (64, 48)) -> HlocFeatures:
    random = np.random.default_rng(count)
    return HlocFeatures(
        random.random((count, 2), np.float32), random.random(count, np.float32), random.random((count, 4)), size
    )


# --- hloc


def test_features_of_hloc_by_hand(tmp_path: Path) -> None:
    """The layout that hloc's own scripts read: descriptors (D, N), groups by image name."""
    given = some(3)
    hloc.write_features(tmp_path / "f.h5", [("db/1.jpg", given), ("q.jpg", some(0))])
    with h5py.File(tmp_path / "f.h5") as file:
        group = file["db/1.jpg"]
        assert group["keypoints"].shape == (3, 2) and group["descriptors"].shape == (4, 3)
        np.testing.assert_array_equal(group["keypoints"], given.keypoints)
        np.testing.assert_array_equal(group["descriptors"][:, 1], given.descriptors[1])
        assert group["image_size"][()].tolist() == [64, 48] and group["keypoints"].attrs["uncertainty"] == 1
    with HlocFile(tmp_path / "f.h5") as file:
        assert file.names("keypoints") == ["db/1.jpg", "q.jpg"]
        np.testing.assert_array_equal(file.features("db/1.jpg").descriptors, given.descriptors)
        assert len(file.features("q.jpg").keypoints) == 0 and file.features("q.jpg").image_size == (64, 48)


def test_matches_of_hloc_by_hand(tmp_path: Path) -> None:
    rows, scores = np.array([-1, 5, -1, 0]), np.array([0, 0.5, 0, 0.25], np.float32)
    hloc.write_matches(tmp_path / "m.h5", [("db/1.jpg", "q/2.jpg", rows, scores)])
    with h5py.File(tmp_path / "m.h5") as file:
        assert file["db-1.jpg/q-2.jpg/matches0"][()].tolist() == [-1, 5, -1, 0]
        assert file["db-1.jpg/q-2.jpg/matching_scores0"].dtype == np.float16
    with HlocFile(tmp_path / "m.h5") as file:
        for names, columns in (
            (("db/1.jpg", "q/2.jpg"), [[1, 5], [3, 0]]),
            (("q/2.jpg", "db/1.jpg"), [[5, 1], [0, 3]]),
        ):
            found, confidences = file.matches(*names)
            assert found.tolist() == columns and confidences.tolist() == [0.5, 0.25]
        with pytest.raises(DataError, match="no matches of"):
            file.matches("db/1.jpg", "db/1.jpg")


def test_rows_beyond_16_bits_are_kept(tmp_path: Path) -> None:
    hloc.write_matches(tmp_path / "m.h5", [("a", "b", np.array([40000]), np.array([1], np.float32))])
    with HlocFile(tmp_path / "m.h5") as file:
        assert file.matches("a", "b")[0].tolist() == [[0, 40000]]


def test_two_pairs_of_one_name_are_refused_and_leave_no_file(tmp_path: Path) -> None:
    pairs = [(first, "q.jpg", np.zeros(0, np.int64), np.zeros(0, np.float32)) for first in ("a/b.jpg", "a-b.jpg")]
    with pytest.raises(DataError, match=r"the name 'a-b\.jpg/q\.jpg' of another pair"):
        hloc.write_matches(tmp_path / "m.h5", pairs)
    assert list(tmp_path.iterdir()) == [] and pair_key("a/b", "c") == "a-b/c"


def test_global_descriptors_of_hloc(tmp_path: Path) -> None:
    hloc.write_descriptors(tmp_path / "g.h5", [("db/1.jpg", np.array([1, 2], np.float32))])
    with HlocFile(tmp_path / "g.h5") as file:
        assert file.names("global_descriptor") == ["db/1.jpg"] and file.descriptor("db/1.jpg").tolist() == [1, 2]
        with pytest.raises(DataError, match="holds no keypoints; give hloc's file of the other kind"):
            file.names("keypoints")


def test_files_that_are_not_hlocs_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "text.h5").write_text("hello")
    with pytest.raises(DataError, match="not an HDF5 file"):
        HlocFile(tmp_path / "text.h5")
    with pytest.raises(DataError, match="no such file"):
        HlocFile(tmp_path / "none.h5")
    with h5py.File(tmp_path / "odd.h5", "w") as file:
        for name, shape in (("short", (2, 2)), ("flat", (6,))):
            group = file.create_group(name)
            group["keypoints"], group["descriptors"], group["image_size"] = np.ones(shape), np.ones((4, 3)), [4, 4]
        file["words/keypoints"] = "text"
        file["endless/keypoints"], file["endless/descriptors"] = np.full((1, 2), np.nan), np.ones((4, 1))
        file["endless/image_size"] = [4, 4]
        file["large"] = np.zeros(1)
    with HlocFile(tmp_path / "odd.h5") as opened:
        for name, sentence in (
            ("short", "do not describe one image"),
            ("flat", "do not describe one image"),
            ("words", "expected numbers"),
            ("endless", "not finite"),
            ("large", "no large/keypoints"),
        ):
            with pytest.raises(DataError, match=sentence):
                opened.features(name)
        monkeypatch.setattr(hloc, "MAX_BYTES", 8)
        with pytest.raises(DataError, match="less than 1 GiB"):
            opened.features("short")


def test_without_h5py_a_sentence_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(ConfigError, match=r"need h5py: pip install 'vpr\[hdf5\]'"):
        hloc.write_features(tmp_path / "f.h5", [])


# --- geometry in other pixels


def test_models_follow_their_points() -> None:
    """A point and its image by a homography, and a point on its epipolar line, before and after."""
    homography = np.array([[1.1, 0.02, 5], [-0.03, 0.9, -4], [1e-4, 2e-4, 1]])
    first, second = scaling((320, 240), (640, 480)), scaling((100, 300), (150, 900))
    new = np.array([33.0, 70.0, 1.0])
    assert np.allclose(scaling((320, 240), (640, 480)) @ [-0.5, -0.5, 1], [-0.5, -0.5, 1])
    there = homography @ first @ new
    moved = in_other_pixels(homography, "homography", first, second) @ new
    assert np.allclose(second @ (moved / moved[2]), there / there[2])
    fundamental = np.random.default_rng(0).random((3, 3))
    here, other = np.array([3.0, 4, 1]), np.array([7.0, 1, 1])
    before = (second @ other) @ fundamental @ (first @ here)
    after = other @ in_other_pixels(fundamental, "fundamental", first, second) @ here
    assert np.isclose(before / after, np.linalg.norm(second.T @ fundamental @ first))
    assert (shift(0.5) @ [1, 2, 1]).tolist() == [1.5, 2.5, 1]


# --- COLMAP

FUNDAMENTAL = np.array([[0.0, 0, 0.1], [0, 0, -1], [-0.1, 1, 0.2]])


def colmap(path: Path, **options: bool) -> Path:
    images = [
        ColmapImage("a.jpg", (64, 48), np.array([[0, 0], [1, 2]], np.float32)),
        ColmapImage("b.jpg", (64, 48), np.array([[9, 9]], np.float32)),
        ColmapImage("c.jpg", (30, 80), np.zeros((0, 2), np.float32)),
    ]
    pairs = [
        ColmapPair("b.jpg", "a.jpg", np.array([[0, 1]]), np.array([True]), FUNDAMENTAL, "fundamental"),
        ColmapPair("a.jpg", "b.jpg", np.array([[0, 0]]), np.array([True]), FUNDAMENTAL, "fundamental"),
        ColmapPair("a.jpg", "c.jpg", np.zeros((0, 2), int), np.zeros(0, bool), np.zeros((0, 0)), "homography"),
        ColmapPair("a.jpg", "a.jpg", np.array([[0, 0]]), np.array([True]), np.eye(3), "homography"),
    ]
    write_colmap(path, images, pairs, **options)
    return path


def test_a_colmap_database_by_hand(tmp_path: Path) -> None:
    """Pixels begin at the corner; the smaller id comes first, and its geometry is turned with it."""
    with closing(sqlite3.connect(colmap(tmp_path / "c.db"))) as database:
        cameras = database.execute("SELECT camera_id, model, width, height, params FROM cameras").fetchall()
        assert [camera[:4] for camera in cameras] == [(1, 2, 64, 48), (2, 2, 64, 48), (3, 2, 30, 80)]
        assert np.frombuffer(cameras[2][4]).tolist() == [96, 15, 40, 0]
        rows, cols, data = database.execute("SELECT rows, cols, data FROM keypoints WHERE image_id = 1").fetchone()
        assert (rows, cols) == (2, 2) and np.frombuffer(data, np.float32).tolist() == [0.5, 0.5, 1.5, 2.5]
        matches = database.execute("SELECT pair_id, rows, data FROM matches ORDER BY pair_id").fetchall()
        assert [row[:2] for row in matches] == [(pair_id(1, 2), 1), (pair_id(1, 3), 0)] and pair_id(2, 1) == 2147483649
        assert np.frombuffer(matches[0][2], np.uint32).tolist() == [1, 0]
        config, found = database.execute("SELECT config, F FROM two_view_geometries ORDER BY pair_id").fetchone()
        in_a, in_b = np.array([1.5, 2.5, 1]), np.array([9.5, 9.5, 1])
        before = np.array([1, 2, 1]) @ FUNDAMENTAL @ np.array([9, 9, 1])  # from b to a
        assert config == 3 and np.isclose(
            in_b @ np.frombuffer(found).reshape(3, 3) @ in_a * np.linalg.norm(in_other(FUNDAMENTAL)), before
        )
    with closing(sqlite3.connect(colmap(tmp_path / "s.db", shared_cameras=True))) as database:
        assert database.execute("SELECT camera_id FROM images").fetchall() == [(1,), (1,), (2,)]


def in_other(model: np.ndarray) -> np.ndarray:
    return shift(-0.5).T @ model @ shift(-0.5)


def test_pycolmap_reads_the_database(tmp_path: Path) -> None:
    pycolmap = pytest.importorskip("pycolmap")
    opening = getattr(pycolmap.Database, "open", pycolmap.Database)
    database = opening(colmap(tmp_path / "c.db"))
    assert sorted(image.name for image in database.read_all_images()) == ["a.jpg", "b.jpg", "c.jpg"]
    assert database.read_keypoints(1).tolist() == [[0.5, 0.5], [1.5, 2.5]]
    assert database.read_matches(1, 2).tolist() == [[1, 0]]
    geometry = database.read_two_view_geometry(1, 2)
    assert geometry.inlier_matches.tolist() == [[1, 0]] and geometry.F is not None
    database.close()


# --- MSLS challenge


def test_the_msls_challenge_file_by_hand(tmp_path: Path) -> None:
    """Keys without folder and suffix; every line as long as the others, filled up where a query has fewer."""
    database = ImageSet(Path("/d"), ("test/x/database/images/d0.jpg", "d1.jpg", "d2.jpg"))
    dataset = Dataset("t", "", database, ImageSet(Path("/q"), ("q/q0.jpg", "q1.jpg")))
    ranking = Ranking(np.array([[2, 0], [1, -1]]), np.array([[2, 1], [1, -np.inf]], np.float32))
    write_msls_challenge(tmp_path / "p.csv", dataset, ranking, k=2)
    lines = (tmp_path / "p.csv").read_text().splitlines()
    assert lines[0].startswith("# ") and lines[1:] == ["q0 d2 d0", "q1 d1 d0"]
    assert np.loadtxt(lines[1:], ndmin=2, dtype=str).shape == (2, 3)  # as mapillary_sls reads it
    assert read_msls_challenge(tmp_path / "p.csv") == {"q0": ["d2", "d0"], "q1": ["d1", "d0"]}
    write_msls_challenge(tmp_path / "p.csv", dataset, ranking, k=25)
    assert read_msls_challenge(tmp_path / "p.csv") == {"q0": ["d2", "d0", "d1"], "q1": ["d1", "d0", "d2"]}


@pytest.mark.parametrize(
    "names, sentence", [(("a/k.jpg", "b/k.jpg"), "have one key, 'k'"), (("k 1.jpg",), "holds a space")]
)
def test_names_that_are_no_keys_of_msls_are_refused(names: tuple[str, ...], sentence: str, tmp_path: Path) -> None:
    dataset = Dataset("t", "", ImageSet(Path("/d"), names), ImageSet(Path("/q"), ("q.jpg",)))
    with pytest.raises(DataError, match=sentence):
        write_msls_challenge(tmp_path / "p.csv", dataset, Ranking(np.array([[0]]), np.array([[1]], np.float32)))


@pytest.mark.parametrize(
    "text, sentence",
    [
        ("# c\nq a a\n", "line 2: 'q' has two lines, or a candidate twice"),
        ("q a\nq b\n", "line 2: 'q' has two lines"),
        ("q a\nr a b\n", "line 2: 2 candidates; all lines need as many"),
        ("q\n", "line 1: 0 candidates"),
        ("# c\n\n", "holds no predictions"),
    ],
)
def test_what_the_challenge_does_not_take_is_refused(text: str, sentence: str, tmp_path: Path) -> None:
    (tmp_path / "bad.csv").write_text(text)
    with pytest.raises(DataError, match=sentence):
        read_msls_challenge(tmp_path / "bad.csv")


# --- the commands


def test_a_run_is_exported(small_city: tuple[Path, Path], tmp_path: Path) -> None:
    """Features of a run have the names of its pairs file, and keypoints in pixels of the stored images."""
    out = tmp_path / "out"
    folders = ["--database", str(small_city[0]), "--queries", str(small_city[1]), "--out", str(out)]
    call(["run", *folders, "--set", "local_features.longest_side=80"])
    for kind in ("local", "global"):
        call(["export", "features", str(out), "--kind", kind, "--out", str(tmp_path / f"{kind}.h5")])
    pairs = (out / "pairs_hloc.txt").read_text().split("\n")
    with HlocFile(tmp_path / "local.h5") as local, HlocFile(tmp_path / "global.h5") as descriptors:
        for first, second in (line.split() for line in pairs):
            assert local.features(first).keypoints[:, 0].max() > 90  # of 160; the method saw 80
            assert local.features(second).image_size == (160, 120)
            assert np.isclose(np.linalg.norm(descriptors.descriptor(first)), 1, atol=1e-3)
    call(["export", "msls-challenge", str(out), "--out", str(tmp_path / "p.csv"), "--k", "3"])
    assert {len(keys) for keys in read_msls_challenge(tmp_path / "p.csv").values()} == {3}


def test_a_run_on_the_features_of_hloc(small_city: tuple[Path, Path], tmp_path: Path) -> None:
    """What a run exported gives the same ranking again, without the images; a changed file changes it."""
    folders = ["--database", str(small_city[0]), "--queries", str(small_city[1])]
    local, descriptors = tmp_path / "local.h5", tmp_path / "global.h5"
    whole = ["--set", "global_descriptor.method=thumbnail"]
    call(["run", *folders, "--out", str(tmp_path / "one"), *whole])
    call(["export", "features", str(tmp_path / "one"), "--out", str(local)])
    call(["export", "features", str(tmp_path / "one"), "--kind", "global", "--out", str(descriptors)])
    both = ["--hloc-features", str(local), "--hloc-descriptors", str(descriptors)]
    call(["run", *folders, "--out", str(tmp_path / "two"), *both])
    assert not (tmp_path / "two" / "features" / "database" / "local").exists()
    one, two = ((tmp_path / name / "pairs_hloc.txt").read_bytes() for name in ("one", "two"))
    assert one == two
    with h5py.File(descriptors, "r+") as file:
        first, second = list(file["database"])[:2]
        kept = file[f"database/{first}/global_descriptor"][()]
        file[f"database/{first}/global_descriptor"][...] = file[f"database/{second}/global_descriptor"][()]
        file[f"database/{second}/global_descriptor"][...] = kept
    call(["run", *folders, "--out", str(tmp_path / "two"), *both, "--set", "rerank.k=0"])
    assert (tmp_path / "two" / "pairs_hloc.txt").read_bytes() != one


def test_features_of_hloc_that_do_not_fit_are_refused(
    small_city: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = [f"{folder.name}/{path.name}" for folder in small_city for path in sorted(folder.iterdir())]
    arguments = ["run", "--database", str(small_city[0]), "--queries", str(small_city[1]), "--out", str(tmp_path / "o")]

    def refused(sentence: str, *more: str) -> None:
        with pytest.raises(SystemExit):
            call([*arguments, *more])
        assert sentence in capsys.readouterr().err

    hloc.write_features(tmp_path / "few.h5", [(name, some(5)) for name in names[:3]])
    refused("nothing of 5 of 8 images", "--hloc-features", str(tmp_path / "few.h5"))
    hloc.write_features(tmp_path / "short.h5", [(name, some(5)) for name in names])
    lengths = [np.ones(4 + (name == names[0]), np.float32) for name in names]
    hloc.write_descriptors(tmp_path / "mixed.h5", zip(names, lengths, strict=True))
    refused("global descriptors of lengths [4, 5]", "--hloc-descriptors", str(tmp_path / "mixed.h5"))
    short = ["--hloc-features", str(tmp_path / "short.h5")]
    refused("take descriptors of length 128", *short, "--config", "vpr_lightglue")
    vocabulary = ["--set", "global_descriptor.method=vlad", "--set", "global_descriptor.weights=vpr-superpoint-vlad"]
    refused("does not fit descriptors of 4", *short, *vocabulary)
    refused("hold no patches", *short, "--config", "patch_netvlad_speed")


def test_matched_pairs_are_exported(tmp_path: Path) -> None:
    """h5 and COLMAP hold the same matches; a turned image has its keypoints in the stored image."""
    wide = textured(1, 100, 160)
    write_picture(tmp_path / "i" / "a.png", wide)
    write_picture(tmp_path / "i" / "lying.png", np.ascontiguousarray(np.rot90(wide, -1)))
    (tmp_path / "pairs.txt").write_text("a.png lying.png 0 1\n")
    out = tmp_path / "out"
    arguments = ["match-pairs", str(tmp_path / "pairs.txt"), "--images", str(tmp_path / "i"), "--out", str(out)]
    call([*arguments, "--format", "h5", "--set", "local_features.method=rootsift"])
    call(["export", "matches", str(out), "--out", str(tmp_path / "m.h5")])
    call(["export", "colmap", str(out), "--out", str(tmp_path / "c.db")])
    with HlocFile(out / "features.h5") as features, HlocFile(tmp_path / "m.h5") as matches:
        rows, _ = matches.matches("a.png", "lying.png")
        here, there = features.features("a.png"), features.features("lying.png")
        x, y = here.keypoints[rows[:, 0]].T
        assert len(rows) > 10 and there.image_size == (100, 160)
        np.testing.assert_allclose(there.keypoints[rows[:, 1]], np.stack([99 - y, x], axis=1), atol=1e-3)
    assert (out / "matches.h5").exists()
    with closing(sqlite3.connect(tmp_path / "c.db")) as database:
        data = database.execute("SELECT data FROM keypoints WHERE image_id = 2").fetchone()[0]
        np.testing.assert_allclose(np.frombuffer(data, np.float32).reshape(-1, 2) - 0.5, there.keypoints, atol=1e-3)
        assert database.execute("SELECT rows FROM matches").fetchone() == (len(rows),)


def test_a_folder_without_features_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for what in ("features", "matches", "colmap", "msls-challenge"):
        with pytest.raises(SystemExit):
            call(["export", what, str(tmp_path), "--out", str(tmp_path / "x")])
        assert str(tmp_path) in capsys.readouterr().err


def test_names_of_a_run_are_those_of_its_pairs(tmp_path: Path) -> None:
    dataset = Dataset("t", "", ImageSet(tmp_path / "d", ("1.jpg",)), ImageSet(tmp_path / "q", ("1.jpg",)))
    assert names_in_pairs(dataset) == (["q/1.jpg"], ["d/1.jpg"])
