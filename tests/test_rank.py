"""One photograph against a folder: by images, by stored features, by hloc's; what is written, and what is refused."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import numpy as np
import pytest
from conftest import textured, write_picture
from test_hostile import call

from vpr.exchange.hloc import HlocFeatures, write_features

pytest.importorskip("h5py")
SIFT = ["--set", "local_features.method=rootsift"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A query, the same place from the side, two others, and a damaged image."""
    wide = textured(1, 120, 200)
    write_picture(tmp_path / "q.png", wide[:, :180])
    write_picture(tmp_path / "among" / "sub" / "same.png", wide[:, 20:])
    for seed in (2, 3):
        write_picture(tmp_path / "among" / f"other{seed}.png", textured(seed, 120, 180))
    (tmp_path / "among" / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    return tmp_path


def rank(folder: Path, *more: str, out: str = "out", among: str = "among") -> list[dict[str, str]]:
    query = ["rank", str(folder / "q.png"), "--among", str(folder / among), "--out", str(folder / out)]
    call([*query, *SIFT, *more])
    return list(csv.DictReader((folder / out / "ranking_score.csv").read_text().splitlines()))


def test_the_same_place_is_first(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = rank(folder)
    assert rows[0]["image"] == "sub/same.png" and [row["rank"] for row in rows] == ["1", "2", "3"]
    scores = [float(row["score"]) for row in rows]
    assert scores == sorted(scores, reverse=True) and scores[0] > 3 * scores[1]
    assert {row["image"] for row in rows} == {"sub/same.png", "other2.png", "other3.png"}
    assert int(rows[0]["inliers"]) <= int(rows[0]["matches"]) <= int(rows[0]["keypoints"])
    said = capsys.readouterr().out
    assert "1. sub/same.png" in said and "3 images" in said
    assert not list((folder / "out").glob("*.npz"))


def test_the_first_candidates_are_written_and_drawn(folder: Path) -> None:
    rank(folder, "--viz", "--first", "2", "--viz-extension", "svg", "--show-keypoints")
    files = sorted(path.name for path in (folder / "out").glob("0*"))
    assert files[:2] == ["0001_q_same_matches.npz", "0001_q_same_matches.svg"] and len(files) == 4
    with np.load(folder / "out" / files[0]) as file:
        rows = np.flatnonzero(file["matches"] >= 0)
        apart = file["keypoints0"][rows] - file["keypoints1"][file["matches"][rows]]
        assert np.abs(np.median(apart, axis=0) - (20, 0)).max() < 0.5
    assert 'class="keypoints"' in (folder / "out" / files[1]).read_text()
    rank(folder)  # another ranking leaves nothing of this one
    assert not list((folder / "out").glob("0*"))


def test_features_in_files_give_the_same_ranking(folder: Path) -> None:
    """Of the folder that a first ranking left, and exported to hloc's file; scores differ by half precision."""
    first = rank(folder)
    stored = rank(folder, out="stored", among="out/features")
    assert [(row["image"], row["score"]) for row in stored] == [(row["image"], row["score"]) for row in first]
    call(["export", "features", str(folder / "out" / "features"), "--out", str(folder / "f.h5")])
    images = ["--images", str(folder / "among"), "--viz", "--first", "1"]
    exported = rank(folder, *images, out="exported", among="f.h5")
    assert [row["image"] for row in exported] == [row["image"] for row in first]
    assert math.isclose(float(exported[0]["score"]), float(first[0]["score"]), rel_tol=0.05)
    assert (folder / "exported" / "0001_q_same_matches.png").exists()


def test_what_cannot_be_ranked_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def refused(sentence: str, *more: str, among: str = "among") -> None:
        with pytest.raises(SystemExit):
            rank(folder, *more, among=among)
        assert sentence in capsys.readouterr().err

    refused("bad.png", "--on-bad-image", "fail")
    refused("no such folder", among="none")
    refused("takes no masks", "--set", "images.masks=auto")
    refused("not an image format", "--viz-extension", "doc")
    one = HlocFeatures(np.ones((3, 2), np.float32), np.ones(3, np.float32), np.ones((3, 4)), (9, 9))
    write_features(folder / "short.h5", [("a.png", one)])
    refused("descriptors of 4 dimensions, those of the query have 128", among="short.h5")
    (folder / "empty").mkdir()
    refused("holds no images", among="empty")
    write_picture(folder / "bad" / "bad.png", textured(1))
    (folder / "bad" / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    refused("not one image can be compared", among="bad")
    (folder / "q.png").unlink()
    refused("q.png: no such image")
