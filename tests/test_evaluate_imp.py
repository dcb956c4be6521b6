"""`vpr evaluate yfcc|scannet` on IMP's files with stored features, and on the raw data."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_hostile import call

from vpr.datasets.raw_pose_pairs import read_scannet_raw, read_yfcc_raw

h5py = pytest.importorskip("h5py")
K = np.array([[300.0, 0, 159.5], [0, 300.0, 119.5], [0, 0, 1]])
TURN = np.array([[np.cos(0.1), 0, np.sin(0.1)], [0, 1, 0], [-np.sin(0.1), 0, np.cos(0.1)]])
MOVE = np.array([1.0, 0.1, 0.2])


def two_views(seed: int, count: int = 80) -> tuple[Any, ...]:
    """Points of a scene in both images with a score, and their descriptors; the second half has other ones there."""
    random = np.random.default_rng(seed)
    points = random.uniform([-2, -1.5, 5], [2, 1.5, 9], (count, 3))
    seen = [points, points @ TURN.T + MOVE]
    pixels = [np.c_[each @ K.T / each[:, 2:]][:, :2] for each in seen]
    descriptors = random.normal(size=(count, 32))
    descriptors /= np.linalg.norm(descriptors, axis=1, keepdims=True)
    scores = np.linspace(1, 0.1, count)[:, None]
    return np.c_[pixels[0], scores], np.c_[pixels[1], scores], descriptors, descriptors.copy()


def write_pairs(path: Path, pairs: int = 2, **changed: Any) -> Path:
    """``yfcc_sp_2000.hdf5``, small; ``changed`` replaces what a group holds for pair 0, None leaves it out."""
    with h5py.File(path, "w") as file:
        for number in range(pairs):
            first, second, desc1, desc2 = two_views(number)
            entries = {"K1": K, "K2": K, "R": TURN, "T": MOVE[:, None], "e": K, "f": K}
            entries |= {"kpt1": first, "kpt2": second, "desc1": desc1, "desc2": desc2}
            for side in (1, 2):
                entries[f"img_path{side}"] = np.array([f"yfcc100m/seq/test/images/{number}{side}.jpg".encode()])
            if number == 0:
                entries |= changed
            for name, value in entries.items():
                if value is not None:
                    file.create_dataset(f"{name}/{number}", data=value)
    return path


def evaluated(name: str, source: Path, out: Path, *more: str) -> dict[str, Any]:
    call(["evaluate", name, str(source), "--out", str(out), "--set", "matcher.method=nearest", *more])
    summary: dict[str, Any] = json.loads((out / "summary.json").read_text())
    return summary


@pytest.mark.parametrize(("name", "estimator"), [("yfcc", "magsac 1px"), ("scannet", "magsac 3px")])
def test_stored_features_give_the_pose_without_images(
    name: str, estimator: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    summary = evaluated(name, write_pairs(tmp_path / f"{name}_sp_2000.hdf5"), tmp_path / "out")
    (row,) = [each for each in summary["tables"]["poses"] if each["part"] == "all"]
    assert row["estimator"] == estimator and row["convention"].startswith("IMP on")
    assert all(row[f"auc_{bound}deg"] > 0.9 for bound in (5, 10, 20)) and row["median_error_deg"] < 0.2
    matches = summary["tables"]["matches"][0]
    assert matches["pairs"] == 2 and matches["matches"] == 80 and matches["precision_imp_5e-3"] == 1
    assert "auc 5deg" in capsys.readouterr().out


def test_a_pose_the_other_way_round_is_wrong(tmp_path: Path) -> None:
    """The same pairs with the inverse pose: the figures would be the same if poses were not read as stored."""
    turned = {"R": TURN.T, "T": -TURN.T @ MOVE}
    summary = evaluated("yfcc", write_pairs(tmp_path / "x.hdf5", 1, **turned), tmp_path / "out")
    assert summary["tables"]["poses"][0]["auc_5deg"] < 0.1


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"desc2": None}, "pair 0 is not in all groups (desc2 differs from K1); incomplete"),
        ({"kpt1": np.zeros((80, 4))}, "expected (N, 3) and (N, D)"),
        ({"desc1": np.zeros((79, 32))}, "expected (N, 3) and (N, D)"),
        ({"K1": np.eye(4)}, "K1/0 has the shape (4, 4), expected (3, 3)"),
        ({"R": 2 * np.eye(3)}, "pair 0: the pose's 3 x 3 part is not a rotation"),
        ({"T": np.array([np.nan, 0, 0])}, "T/0 holds numbers that are not finite"),
        ({"img_path1": np.array([b"../../x.jpg"])}, "img_path1/0"),
        ({"kpt2": np.array([b"words"])}, "kpt2/0 holds"),
    ],
)
def test_files_that_are_incomplete_or_wrong_are_told(
    changed: dict[str, Any], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        evaluated("yfcc", write_pairs(tmp_path / "x.hdf5", **changed), tmp_path / "out")
    assert said in " ".join(capsys.readouterr().err.split())


def test_what_is_no_such_file_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "cut.hdf5").write_bytes(write_pairs(tmp_path / "x.hdf5").read_bytes()[:3000])
    with h5py.File(tmp_path / "other.hdf5", "w") as file:
        file["K1/0"] = K
    for name, more, said in (
        ("cut.hdf5", (), "not an HDF5 file, or damaged"),
        ("none.hdf5", (), "not an HDF5 file, or damaged"),
        ("other.hdf5", (), "no group K2, R, T"),
        ("x.hdf5", ("--estimator", "verification"), "on stored features choose of"),
        ("x.hdf5", ("--longest-side", "640"), "at the stored size"),
    ):
        with pytest.raises(SystemExit):
            evaluated("yfcc", tmp_path / name, tmp_path / "out", *more)
        assert said in " ".join(capsys.readouterr().err.split())


def raw_yfcc(root: Path) -> Path:
    folder = root / "yfcc100m" / "seq" / "test"
    (folder / "calibration").mkdir(parents=True)
    (root / "pairs").mkdir()
    for row, (R, T) in enumerate([(np.eye(3), np.zeros(3)), (TURN, MOVE)]):
        with h5py.File(folder / "calibration" / f"{row}.h5", "w") as file:
            file["K"], file["R"], file["T"] = K + np.array([[0, 0, 9], [0, 0, 9], [0, 0, 0]]), R, T[:, None]
            file["imsize"] = np.array([[320, 240]])
    (folder / "images.txt").write_text("images/0.jpg\nimages/1.jpg\n")
    (folder / "calibration.txt").write_text("calibration/0.h5\ncalibration/1.h5\n")
    (root / "pairs" / "seq-te-1000-pairs.pkl").write_bytes(pickle.dumps([[0, 1], (np.int64(1), np.int64(0))]))
    return root


def test_raw_yfcc(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pair, back = read_yfcc_raw(raw_yfcc(tmp_path))
    assert np.allclose(pair.first_intrinsics, K) and np.allclose(pair.rotation, TURN)
    assert np.allclose(pair.translation, MOVE) and np.allclose(back.rotation @ pair.translation, -back.translation)
    assert pair.first == tmp_path / "yfcc100m" / "seq" / "test" / "images" / "0.jpg" and pair.part == "seq"
    table = tmp_path / "pairs" / "seq-te-1000-pairs.pkl"
    for content, said in (
        (pickle.dumps([[0, 7]]), "holds no pairs of two of the 2 images"),
        (pickle.dumps([[0, 1]])[:-4], "not a list of pairs"),
        (b"cbuiltins\nprint\n(S'run'\ntR.", "it would run builtins.print"),
        (None, "give the folder with pairs/ and yfcc100m/"),
    ):
        table.unlink() if content is None else table.write_bytes(content)
        with pytest.raises(SystemExit):
            evaluated("yfcc", tmp_path, tmp_path / "out")
        assert said in " ".join(capsys.readouterr().err.split())


def test_raw_scannet(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scene = tmp_path / "raw" / "scene0707_00"
    for kind in ("extrinsic", "intrinsic"):
        (scene / kind).mkdir(parents=True)
    pose = np.eye(4)
    pose[:3] = np.c_[TURN, MOVE]
    for name, matrix in (("15", np.eye(4)), ("585", np.linalg.inv(pose))):
        np.savetxt(scene / "extrinsic" / f"{name}.txt", matrix)
        np.savetxt(scene / "intrinsic" / f"{name}.txt", K)
    np.savetxt(scene / "extrinsic" / "9.txt", np.zeros((4, 4)))
    np.savetxt(scene / "intrinsic" / "9.txt", K)
    table = tmp_path / "pairs.txt"
    table.write_text("scene0707_00/img/15.jpg scene0707_00/img/585.jpg\n")
    (pair,) = read_scannet_raw(table, tmp_path / "raw")
    assert np.allclose(pair.rotation, TURN) and np.allclose(pair.translation, MOVE) and pair.first.name == "15.jpg"
    for line, said in (
        ("scene0707_00/img/15.jpg", "line 1: 1 fields"),
        ("scene0707_00/img/15.jpg scene0707_00/img/7.jpg", "7.txt: not a matrix"),
        ("../x/15.jpg scene0707_00/img/15.jpg", "line 1"),
        ("scene0707_00/img/15.jpg scene0707_00/img/9.jpg", "has no inverse"),
        ("", "empty"),
    ):
        table.write_text(line)
        with pytest.raises(SystemExit):
            evaluated("scannet", table, tmp_path / "out", "--images", str(tmp_path / "raw"))
        assert said in " ".join(capsys.readouterr().err.split())
