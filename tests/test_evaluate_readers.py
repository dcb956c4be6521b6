"""Readers of the layouts of the geometry benchmarks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from geometry_sets import WARP, write_homography_folder, write_hpatches

from vpr.core import DataError
from vpr.datasets.homography_pairs import LARGE, read_homography_folder, read_hpatches
from vpr.datasets.pose_pairs import read_pair_list, read_pose_folder

K = "500 0 320 0 510 240 0 0 1"
ROTATION = "0 -1 0 1 0 0 0 0 1"


# --- homographies


def test_hpatches_pairs_every_image_with_the_first(tmp_path: Path) -> None:
    write_hpatches(tmp_path, size=(40, 30))
    pairs = read_hpatches(tmp_path)
    assert [pair.name for pair in pairs[:2]] == ["i_dark/1 2", "i_dark/1 3"]
    assert [pair.part for pair in pairs] == ["illumination"] * 5 + ["viewpoint"] * 5
    np.testing.assert_allclose(pairs[-1].homography, WARP)
    assert all(pair.first.exists() and pair.second.exists() for pair in pairs)


def test_hpatches_without_its_large_sequences(tmp_path: Path) -> None:
    write_hpatches(tmp_path, ("i_dark", LARGE[0]), size=(40, 30))
    assert len(read_hpatches(tmp_path)) == 10
    assert {pair.first.parent.name for pair in read_hpatches(tmp_path, large=False)} == {"i_dark"}


def test_other_folders_are_not_sequences(tmp_path: Path) -> None:
    write_hpatches(tmp_path, ("v_wall",), size=(40, 30))
    (tmp_path / "results").mkdir()
    assert len(read_hpatches(tmp_path)) == 5


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda root: (root / "v_wall" / "H_1_4").unlink(), r"H_1_4: no such file"),
        (lambda root: (root / "v_wall" / "H_1_4").write_text("1 0 0 0 1 0"), "6 numbers; expected the nine"),
        (lambda root: (root / "v_wall" / "H_1_4").write_text("1 0 0 0 1 0 0 0 x"), "expected a number, found 'x'"),
        (lambda root: (root / "v_wall" / "H_1_4").write_text("0 " * 9), "cannot be inverted"),
        (lambda root: (root / "v_wall" / "H_1_4").write_bytes(b"\xff\xfe"), "not a text file"),
        (lambda root: (root / "v_wall" / "3.ppm").unlink(), "no image 3.ppm"),
    ],
    ids=["no H", "short", "a word", "singular", "binary", "no picture"],
)
def test_broken_hpatches_name_the_file(tmp_path: Path, spoil, message: str) -> None:
    write_hpatches(tmp_path, ("v_wall",), size=(40, 30))
    spoil(tmp_path)
    with pytest.raises(DataError, match=message):
        read_hpatches(tmp_path)


def test_a_folder_without_sequences_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"holds no folder named i_\*"):
        read_hpatches(tmp_path)
    with pytest.raises(DataError, match="no such folder"):
        read_hpatches(tmp_path / "missing")


def test_a_folder_with_a_table(tmp_path: Path) -> None:
    write_homography_folder(tmp_path, 2, size=(40, 30))
    pairs = read_homography_folder(tmp_path)
    assert [(pair.first.name, pair.second.name) for pair in pairs] == [("0a.png", "0b.png"), ("1a.png", "1b.png")]
    np.testing.assert_allclose(pairs[1].homography, WARP)


def test_broken_tables_name_the_line(tmp_path: Path) -> None:
    write_homography_folder(tmp_path, 1, size=(40, 30))
    table = tmp_path / "homographies.csv"
    header, line = table.read_text().splitlines()
    for content, message in [
        (f"{header}\n", "lists no pair"),
        (f"{header}\n{line}\na.png,b.png,{','.join('0' * 9)}\n", "line 3: the homography cannot be inverted"),
        (f"{header}\n{line.replace('0a.png', '../a.png')}\n", "line 2: .*not inside its folder"),
        (f"{header[:-4]}\n{line.rsplit(',', 1)[0]}\n", "no column 'h22'"),
    ]:
        table.write_text(content)
        with pytest.raises(DataError, match=message):
            read_homography_folder(tmp_path)


# --- relative poses


@pytest.mark.parametrize(
    ("turns", "pose"),
    [
        ("", f"{ROTATION} 1 2 3"),
        ("", "0 -1 0 1 1 0 0 2 0 0 1 3 0 0 0 1"),
        ("1 3", "0 -1 0 1 1 0 0 2 0 0 1 3 0 0 0 1"),
    ],
    ids=["32 fields", "36 fields", "38 fields"],
)
def test_lines_of_a_pair_list(tmp_path: Path, turns: str, pose: str) -> None:
    path = tmp_path / "pairs.txt"
    path.write_text(f"scene/a.jpg scene/b.jpg {turns} {K} {K.replace('500', '400')} {pose}\n\n")
    (pair,) = read_pair_list(path, tmp_path / "images")
    assert pair.first == tmp_path / "images" / "scene" / "a.jpg"
    assert pair.second_intrinsics.tolist() == [[400, 0, 320], [0, 510, 240], [0, 0, 1]]
    assert pair.rotation.tolist() == [[0, -1, 0], [1, 0, 0], [0, 0, 1]]
    assert pair.translation.tolist() == [1, 2, 3]
    assert pair.turns == ((1, 3) if turns else (0, 0))
    assert pair.name == "scene/a.jpg scene/b.jpg"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("a.jpg b.jpg", "line 1: 2 fields; expected 38"),
        (f"a.jpg b.jpg {K} {K} 2 0 0 0 1 0 0 0 1 0 0 1", "not a rotation"),
        (f"a.jpg b.jpg {K} {K} 1 0 0 0 1 0 0 0 -1 0 0 1", "not a rotation"),
        (f"a.jpg b.jpg {K} {K.replace('510', '0')} {ROTATION} 0 0 1", "focal length is not positive"),
        (f"a.jpg b.jpg {K} {K} {ROTATION} 0 0 nan", "expected a number, found 'nan'"),
        (f"a.jpg b.jpg 4 0 {K} {K} 1 0 0 0 0 1 0 0 0 0 1 1 0 0 0 1", "'4' is not a number of quarter turns"),
        (f"../a.jpg b.jpg {K} {K} {ROTATION} 0 0 1", "not inside its folder"),
        ("", "lists no pair"),
    ],
    ids=["names alone", "scaled", "mirrored", "no focal length", "nan", "turns", "outside", "empty"],
)
def test_broken_pair_lists_name_the_line(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "pairs.txt"
    path.write_text(line)
    with pytest.raises(DataError, match=message):
        read_pair_list(path, tmp_path)


def test_a_missing_pair_list(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        read_pair_list(tmp_path / "pairs.txt", tmp_path)


def poses(tmp_path: Path, extra: str = "") -> Path:
    """Three cameras that look along z, at x = 0, 1 and 3; the last is turned by a quarter around z."""
    columns = "image," + ",".join(f"p{i}" for i in range(12))
    straight = "1,0,0,{x},0,1,0,0,0,0,1,0"
    turned = "0,-1,0,3,1,0,0,0,0,0,1,0"
    rows = [straight.format(x=0), straight.format(x=1), turned]
    header = columns + (",fx,fy,cx,cy" if extra else "")
    lines = [f"{i}.jpg,{row}{extra}" for i, row in enumerate(rows)]
    (tmp_path / "poses.csv").write_text("\n".join([header, *lines]) + "\n")
    return tmp_path


def test_poses_become_relative_ones(tmp_path: Path) -> None:
    (tmp_path / "calib.txt").write_text("P0: 500 0 320 7 0 510 240 0 0 0 1 0\nP1: more\n")
    pairs = read_pose_folder(poses(tmp_path), steps=(1, 2))
    assert [(pair.first.stem, pair.second.stem, pair.part) for pair in pairs] == [
        ("0", "1", "1 apart"),
        ("1", "2", "1 apart"),
        ("0", "2", "2 apart"),
    ]
    assert pairs[0].translation.tolist() == [-1, 0, 0]  # the first camera stands to the left of the second
    assert pairs[0].first_intrinsics.tolist() == [[500, 0, 320], [0, 510, 240], [0, 0, 1]]
    # The world's x is what the turned camera calls minus y.
    np.testing.assert_allclose(pairs[2].rotation @ [1, 0, 0], [0, -1, 0])
    np.testing.assert_allclose(pairs[2].translation, [0, 3, 0])


def test_intrinsics_of_every_image(tmp_path: Path) -> None:
    pairs = read_pose_folder(poses(tmp_path, ",500,510,320,240"), steps=(2,))
    assert pairs[0].second_intrinsics.tolist() == [[500, 0, 320], [0, 510, 240], [0, 0, 1]]


@pytest.mark.parametrize(
    ("prepare", "steps", "message"),
    [
        (lambda root: None, (1,), "no intrinsics"),
        (lambda root: (root / "calib.txt").write_text(""), (1,), "0 numbers; expected the twelve"),
        (lambda root: (root / "calib.txt").write_text("1 2 3"), (1,), "3 numbers; expected the twelve"),
        (lambda root: (root / "calib.txt").write_text("5 0 3 0 0 5 2 0 0 0 1 0"), (9,), "make no pair 9 rows apart"),
    ],
    ids=["no calibration", "empty", "short", "steps too long"],
)
def test_broken_pose_folders_say_what_is_missing(tmp_path: Path, prepare, steps, message: str) -> None:
    poses(tmp_path)
    prepare(tmp_path)
    with pytest.raises(DataError, match=message):
        read_pose_folder(tmp_path, steps)


def test_a_folder_without_poses(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"poses.csv: no such file"):
        read_pose_folder(tmp_path)
