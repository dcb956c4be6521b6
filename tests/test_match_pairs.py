"""Lists of pairs to matches: the list, the files by hand, what is reused, turns, and every kind of output."""

from __future__ import annotations

import csv
import os
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import textured, write_picture
from test_hostile import call

from vpr.config import load
from vpr.core import ConfigError, DataError
from vpr.datasets.image_pairs import read_image_pairs
from vpr.exchange import match_npz
from vpr.exchange.match_npz import PairFile, read_pair, write_pair
from vpr.exchange.pair_table import read_pair_table
from vpr.images import moved, turned_back, upright_size
from vpr.pairs.matching import file_names
from vpr.pairs.matching import match_pairs as match_all
from vpr.settings import Settings

SIFT = ["--set", "local_features.method=rootsift"]


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Two views of one place, 20 pixels apart, one of another, one damaged, and the first turned clockwise."""
    wide = textured(1, 200, 320)
    write_picture(tmp_path / "i" / "a.png", wide[:, :300])
    write_picture(tmp_path / "i" / "sub" / "b.png", wide[:, 20:])
    write_picture(tmp_path / "i" / "c.png", textured(2, 200, 300))
    write_picture(tmp_path / "i" / "lying.png", np.ascontiguousarray(np.rot90(wide[:, :300], -1)))
    (tmp_path / "i" / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    return tmp_path / "i"


def listed(folder: Path, text: str) -> Path:
    path = folder / "pairs.txt"
    path.write_text(text)
    return path


def test_a_list_of_two_four_and_more_fields(tmp_path: Path) -> None:
    numbers = " ".join(["1"] * 34)
    found = read_image_pairs(
        listed(tmp_path, f"# comment\n./a.jpg b.jpg\n\na.jpg c.jpg 1 3\r\nb.jpg a.jpg 0 2 {numbers}\n"), Path("/data")
    )
    assert found.images.names == ("a.jpg", "b.jpg", "c.jpg") and found.images.root == Path("/data")
    assert found.pairs.tolist() == [[0, 1], [0, 2], [1, 0]] and found.turns.tolist() == [[0, 0], [1, 3], [0, 2]]
    assert found.first(1).images.names == ("a.jpg", "b.jpg") and len(found.first(9)) == 3


@pytest.mark.parametrize(
    "text, sentence",
    [
        ("", "lists no pair; expected two image names"),
        ("# only\n", "lists no pair"),
        ("a.jpg\n", "line 1: 1 fields; expected 2"),
        ("a.jpg b.jpg 1\n", "line 1: 3 fields; expected 2"),
        ("a.jpg b.jpg 0 4\n", "line 1: '4' is not a number of quarter turns"),
        ("a.jpg b.jpg\na.jpg b.jpg\n", "line 2: the pair of line 1"),
        ("a.jpg ../b.jpg\n", "line 1: image name '../b.jpg' is not inside"),
    ],
)
def test_what_is_no_list_of_pairs_is_refused(text: str, sentence: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=sentence):
        read_image_pairs(listed(tmp_path, text), tmp_path)


def test_files_are_named_as_superglue_names_them_unless_two_would_be_one(tmp_path: Path) -> None:
    text = "x/a.jpg x/b.jpg\ny/a.jpg c.jpg\nx/a.jpg c.jpg\nx-a.jpg c.jpg\nx/a.jpg c.jpg 1 0\n"
    text += "y/x-a.jpg c.jpg\n"
    names = file_names(read_image_pairs(listed(tmp_path, text), tmp_path))
    assert names[0] == "a_b_matches.npz" and names[1] == "y-a.jpg_c.jpg_matches.npz"
    assert names[2] == "000002_x-a.jpg_c.jpg_matches.npz" and names[4] == "x-a.jpg_c.jpg_turned10_matches.npz"
    assert names[3] == "000003_x-a.jpg_c.jpg_matches.npz" and len(set(names)) == 6


def test_a_command_matches_a_list(pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Matches lie 20 pixels apart in full-size pixels; the damaged image is named, and its pair has none."""
    pairs = listed(tmp_path, "a.png sub/b.png\na.png c.png\na.png bad.png\n")
    out = tmp_path / "out"
    arguments = ["match-pairs", str(pairs), "--images", str(pictures), "--out", str(out), *SIFT]
    small = ["--set", "local_features.longest_side=150"]  # the method sees the images at half their size
    call([*arguments, *small, "--viz", "--show-keypoints"])
    said = capsys.readouterr().out
    assert "2 of 3 pairs matched" in said and "Not read: 1 pairs" in said and "bad.png" in said
    with np.load(out / "a_b_matches.npz") as file:
        assert {"keypoints0", "keypoints1", "matches", "match_confidence"} <= set(file.files)
        rows = np.flatnonzero(file["matches"] >= 0)
        apart = file["keypoints0"][rows] - file["keypoints1"][file["matches"][rows]]
        assert len(rows) > 20 and np.abs(np.median(apart, axis=0) - (20, 0)).max() < 0.3
        assert file["match_confidence"][rows].min() >= 0 and not file["match_confidence"][file["matches"] < 0].any()
        assert file["keypoints0"][:, 0].max() > 160 and file["sizes"].tolist() == [[300, 200], [280 + 20, 200]]
        model = file["model"] / np.abs(file["model"]).max()
        ends = np.stack([file["keypoints0"][rows], file["keypoints1"][file["matches"][rows]]])
        lines = np.column_stack([ends[0], np.ones(len(rows))]) @ model.T
        distance = (np.column_stack([ends[1], np.ones(len(rows))]) * lines).sum(1) / np.hypot(lines[:, 0], lines[:, 1])
        assert np.median(np.abs(distance[file["inliers"][rows]])) < 3
    table = list(csv.DictReader((out / "pairs.csv").read_text().splitlines()))
    assert [row["file"] for row in table] == ["a_b_matches.npz", "a_c_matches.npz", ""]
    assert "bad.png" in table[2]["problem"] and int(table[0]["inliers"]) > int(table[1]["inliers"])
    drawn = cv2.imread(str(out / "a_b_matches.png"))
    assert drawn.shape[1] == 300 + 8 + 300 and (out / "a_c_matches.png").exists()


def test_only_what_is_new_or_was_made_otherwise_is_matched_again(pictures: Path, tmp_path: Path) -> None:
    pairs, out = listed(tmp_path, "a.png sub/b.png\na.png c.png\n"), tmp_path / "out"

    def run(*more: str) -> dict[str, int]:
        settings = load(Settings, None, ["local_features.method=rootsift", *more])
        match_all(read_image_pairs(pairs, pictures), settings, out, out)
        return {path.name: path.stat().st_mtime_ns for path in out.glob("*.npz")}

    first = run()
    assert run() == first
    write_picture(pictures / "c.png", textured(5, 200, 300))
    changed = run()
    assert changed["a_b_matches.npz"] == first["a_b_matches.npz"]
    assert changed["a_c_matches.npz"] != first["a_c_matches.npz"]
    (out / "a_b_matches.npz").write_bytes((out / "a_b_matches.npz").read_bytes()[:500])
    mended = run()
    assert mended["a_c_matches.npz"] == changed["a_c_matches.npz"] and read_pair(out / "a_b_matches.npz")
    assert run("matcher.ratio=0.7")["a_c_matches.npz"] != mended["a_c_matches.npz"]


def test_turned_images_are_matched_upright(pictures: Path, tmp_path: Path) -> None:
    """The lying image, turned once, is the first one: its keypoints are those of the first."""
    pairs, out = listed(tmp_path, "lying.png a.png 1 0\n"), tmp_path / "out"
    call(["match-pairs", str(pairs), "--images", str(pictures), "--out", str(out), *SIFT])
    file = read_pair(out / "lying_a_matches.npz")
    assert file.turns == (1, 0) and file.sizes == ((300, 200), (300, 200))
    np.testing.assert_allclose(file.keypoints0, file.keypoints1)
    assert file.matches.tolist() == list(range(len(file.matches)))


def test_points_are_turned_back_as_the_image_is() -> None:
    stored = np.arange(12).reshape(3, 4)
    for turns in range(4):
        turned = np.rot90(stored, turns)
        points = np.array([[x, y] for y in range(turned.shape[0]) for x in range(turned.shape[1])], np.float32)
        back = turned_back(points, turns, (4, 3)).astype(int)
        assert [stored[y, x] for x, y in back] == turned.ravel().tolist()


def test_sizes_are_those_of_the_upright_image(tmp_path: Path) -> None:
    from PIL import Image

    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(textured(1, 60, 90)).save(tmp_path / "a.jpg", exif=exif)
    write_picture(tmp_path / "b.png", textured(1, 60, 90))
    assert upright_size(tmp_path / "a.jpg") == (60, 90) and upright_size(tmp_path / "b.png") == (90, 60)


def test_images_without_keypoints_have_no_matches(pictures: Path, tmp_path: Path) -> None:
    write_picture(pictures / "blank.png", np.zeros((50, 70, 3), np.uint8))
    pairs, out = listed(tmp_path, "blank.png a.png\na.png blank.png\nblank.png blank.png\n"), tmp_path / "out"
    call(["match-pairs", str(pairs), "--images", str(pictures), "--out", str(out), *SIFT, "--viz", "--format", "h5"])
    assert [(row.keypoints0 > 0, row.matches, row.problem) for row in read_pair_table(out)] == [
        (False, 0, ""),
        (True, 0, ""),
        (False, 0, ""),
    ]
    call(["export", "colmap", str(out), "--out", str(tmp_path / "c.db")])
    assert (out / "work" / "blank_blank_matches.png").exists() and (out / "matches.h5").exists()


def test_points_move_with_the_corners_of_the_image() -> None:
    assert moved(np.array([[-0.5, -0.5], [9.5, 4.5]], np.float32), (10, 5), (20, 15)).tolist() == [
        [-0.5, -0.5],
        [19.5, 14.5],
    ]


def test_bad_images_can_be_fatal_and_no_pair_at_all_is_a_failure(pictures: Path, tmp_path: Path) -> None:
    some, none = listed(tmp_path, "a.png bad.png\na.png c.png\n"), tmp_path / "none.txt"
    none.write_text("a.png bad.png\n")
    folders = ["--images", str(pictures), "--out", str(tmp_path / "out"), *SIFT]
    for arguments in ([str(some), "--on-bad-image", "fail"], [str(none)]):
        with pytest.raises(SystemExit):
            call(["match-pairs", *arguments, *folders])


@pytest.mark.parametrize("extension, begins", [("jpg", b"\xff\xd8"), ("pdf", b"%PDF"), (".svg", b"<svg")])
def test_drawings_have_the_format_that_is_asked_for(
    extension: str, begins: bytes, pictures: Path, tmp_path: Path
) -> None:
    pairs, out = listed(tmp_path, "a.png sub/b.png\n"), tmp_path / "out"
    arguments = ["match-pairs", str(pairs), "--images", str(pictures), "--out", str(out), *SIFT, "--viz"]
    call([*arguments, "--viz-extension", extension])
    assert (out / f"a_b_matches.{extension.lstrip('.')}").read_bytes().startswith(begins)
    with pytest.raises(SystemExit):
        call([*arguments, "--viz-extension", "doc"])


def pair_file(**changes: object) -> PairFile:
    fields: dict[str, object] = {
        "keypoints0": np.array([[1, 2], [3, 4]], np.float32),
        "keypoints1": np.array([[5, 6]], np.float32),
        "matches": np.array([-1, 0]),
        "match_confidence": np.array([0, 0.5], np.float32),
        "inliers": np.array([False, True]),
        "model": np.zeros((0, 0)),
        "geometry": "fundamental",
        "score": 0.25,
        "turns": (0, 1),
        "sizes": ((10, 20), (30, 40)),
        "origin": "abc",
    }
    return PairFile(**{**fields, **changes})  # type: ignore[arg-type]


def test_a_file_of_matches_is_read_back(tmp_path: Path) -> None:
    write_pair(tmp_path / "m.npz", pair_file())
    back = read_pair(tmp_path / "m.npz")
    assert back.pairs().tolist() == [[1, 0]] and back.sizes == ((10, 20), (30, 40)) and back.score == 0.25
    assert back.turns == (0, 1) and back.origin == "abc" and back.geometry == "fundamental"


def test_files_that_are_no_matches_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DataError, match="not a file of matches, or damaged: a pipe"):
        read_pair(tmp_path / "pipe")
    with pytest.raises(DataError, match="not a readable list of pairs: a pipe"):
        read_image_pairs(tmp_path / "pipe", tmp_path)
    with pytest.raises(DataError, match="no such file of matches"):
        read_pair(tmp_path / "none.npz")
    (tmp_path / "text.npz").write_text("hello")
    np.savez(tmp_path / "other.npz", a=1)
    for name in ("text.npz", "other.npz"):
        with pytest.raises(DataError, match="not a file of matches"):
            read_pair(tmp_path / name)
    with pytest.raises(ValueError, match="does not have"):
        pair_file(matches=np.array([-1, 1]))
    write_pair(tmp_path / "m.npz", pair_file())
    monkeypatch.setattr(match_npz, "MAX_BYTES", 100)
    with pytest.raises(DataError, match="unpacks to more"):
        read_pair(tmp_path / "m.npz")


def test_a_list_of_turned_images_alone(pictures: Path, tmp_path: Path) -> None:
    pairs = listed(tmp_path, "lying.png lying.png 1 1\n")
    settings = load(Settings, None, ["local_features.method=rootsift"])
    found = match_all(read_image_pairs(pairs, pictures), settings, tmp_path / "out", tmp_path / "out")
    assert found.rows[0].inliers > 20
    assert read_pair_table(tmp_path / "out")[0] == found.rows[0]


def test_a_damaged_table_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file; give the folder"):
        read_pair_table(tmp_path)
    (tmp_path / "pairs.csv").write_text("image0\na\n")
    with pytest.raises(DataError, match="no column"):
        read_pair_table(tmp_path)


def test_an_image_in_two_ways_cannot_be_written_to_h5(pictures: Path, tmp_path: Path) -> None:
    from vpr.pairs.exporting import require_exportable

    pairs = read_image_pairs(listed(tmp_path, "a.png c.png 0 0\na.png c.png 1 0\n"), pictures)
    with pytest.raises(ConfigError, match=r"'a\.png' is listed with 0 and with 1 quarter turns"):
        require_exportable(pairs, load(Settings, None))


def test_the_working_folder_is_where_names_begin_without_images(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (pictures / "list.txt").write_text("a.png c.png\n")
    monkeypatch.chdir(tmp_path)
    call(["match-pairs", os.path.join("i", "list.txt"), "--out", "out", *SIFT])
    assert (tmp_path / "out" / "a_c_matches.npz").exists()


def test_masked_pixels_have_no_keypoints(pictures: Path, tmp_path: Path) -> None:
    mask = np.full((200, 300), 255, np.uint8)
    mask[:, :150] = 0
    write_picture(tmp_path / "mask.png", mask)
    chosen = [*SIFT, "--set", f"images.masks={tmp_path / 'mask.png'}"]
    pairs, out = listed(tmp_path, "a.png sub/b.png\n"), tmp_path / "out"
    call(["match-pairs", str(pairs), "--images", str(pictures), "--out", str(out), *chosen])
    assert read_pair(out / "a_b_matches.npz").keypoints0[:, 0].min() > 148
    turned = listed(tmp_path, "lying.png a.png 1 0\n")
    with pytest.raises(SystemExit):
        call(["match-pairs", str(turned), "--images", str(pictures), "--out", str(out), *chosen])
