"""Points and lines in use: which lines agree with a geometry, re-ranking by both, and what is drawn of them."""

from __future__ import annotations

import csv
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from conftest import write_picture
from test_hostile import call

from vpr.build import build_pair_methods
from vpr.config import load
from vpr.core import ConfigError
from vpr.maps.map import Map
from vpr.matchers.gluestick_network import GlueStickNetwork
from vpr.report.compared import correspondences_of
from vpr.report.drawing import REJECTED_RGB, MatchedSegments, draw_segments
from vpr.rerank.line_agreement import lines_agree
from vpr.rerank.lines import LinePair
from vpr.settings import Settings, configured
from vpr.training.initial import start_as_nearest


def ends(*segments: tuple[float, float, float, float]) -> np.ndarray:
    return np.array(segments, np.float64).reshape(-1, 2, 2)


def test_lines_that_a_homography_sends_to_their_partners() -> None:
    shift = np.array([[1, 0, 20], [0, 1, 5], [0, 0, 1.0]])
    first = ends((10, 10, 60, 10), (10, 10, 60, 10), (10, 10, 60, 10), (10, 10, 60, 10), (10, 10, 60, 10))
    second = ends(
        (80, 15, 30, 15),  # the same, the other way round
        (50, 17, 110, 17),  # two pixels beside it, more than half of it shared
        (30, 20, 80, 20),  # five pixels beside it
        (75, 15, 160, 15),  # on its line, but hardly overlapping
        (30, 15, 80, 30),  # turned
    )
    for one, other, model in ((first, second, shift), (second, first, np.linalg.inv(shift)), (first, second, -shift)):
        assert lines_agree(one, other, model, "homography", 3.0).tolist() == [True, True, False, False, False]
    assert not lines_agree(first, second, np.zeros((3, 3)), "homography", 3.0).any()
    assert lines_agree(first[:0], second[:0], shift, "homography", 3.0).shape == (0,)


def test_lines_that_epipolar_lines_cut() -> None:
    """A camera that moves sideways: the epipolar line of (x, y) is the row y."""
    sideways = np.array([[0.0, 0, 0], [0, 0, -1], [0, 1, 0]])
    first = ends((10, 10, 10, 60), (10, 10, 10, 60), (10, 10, 10, 60), (10, 40, 60, 40), (10, 40, 60, 40))
    second = ends(
        (90, 60, 80, 10),  # the same rows, the other way round
        (90, 40, 90, 90),  # 20 of 50 rows
        (90, 70, 90, 120),  # other rows
        (200, 42, 240, 40),  # along the epipolar line
        (200, 47, 240, 47),  # along another one
    )
    found = [True, False, False, True, False]
    assert lines_agree(first, second, sideways, "fundamental", 3.0).tolist() == found
    assert lines_agree(second, first, sideways.T, "fundamental", 3.0).tolist() == found


# --- re-ranking


@pytest.fixture
def on(tmp_path: Path) -> list[str]:
    """Settings of re-ranking by weights that match what looks alike."""
    torch.manual_seed(0)
    network = GlueStickNetwork((16, 128), layers=2)
    start_as_nearest(network)
    torch.save(network.state_dict(), tmp_path / "gluestick.pth")
    return [
        "rerank.method=points_and_lines",
        "image_matcher.method=gluestick",
        f"image_matcher.weights={tmp_path / 'gluestick.pth'}",
        "image_matcher.superpoint=vpr-superpoint",
        "image_matcher.keypoint_threshold=0.0",
        "image_matcher.max_keypoints=200",
        "verification.model=homography",
    ]


def folder_of(path: Path, seeds: range, shift: int = 0) -> Path:
    for seed in seeds:
        image = np.full((160, 200), 40, np.uint8)
        random = np.random.default_rng(seed)
        for _ in range(6):
            x, y, w, h = (int(each) for each in random.integers((10, 10, 30, 30), (120, 90, 70, 60)))
            cv2.rectangle(image, (x, y), (x + w, y + h), int(random.integers(90, 255)), -1)
        moved = np.roll(image, shift, axis=1)
        write_picture(path / f"{seed}.png", np.repeat(moved[..., None], 3, axis=2))
    return path


def options(on: list[str]) -> list[str]:
    return [each for value in on for each in ("--set", value)]


def test_lines_add_to_the_score_of_points(on: list[str], tmp_path: Path) -> None:
    paths = [folder_of(tmp_path / str(shift), range(1), shift) / "0.png" for shift in (0, 8)]
    scores = []
    for weight in (0.0, 1.0):
        values = [*on, f"rerank.line_weight={weight}"]
        settings = load(Settings, None, values)
        methods = build_pair_methods(settings, dense=True)
        compared = [methods.compared(path) for path in paths]
        pair = methods.reranker.pair(*compared)
        assert isinstance(pair, LinePair) and pair.lines_agree.sum() >= 4
        scores.append(methods.reranker.score(pair))
        drawn = correspondences_of(pair, *compared, keypoints=True)
        assert drawn.segments is not None and len(drawn.segments.agree) == len(pair.lines)
    assert scores[1] == pytest.approx(scores[0] + pair.confidence_of_lines)
    nothing = methods.reranker.nothing
    assert len(nothing) == 0 and methods.reranker.pair(compared[0], nothing).evidence.matches == 0


def test_a_run_and_a_ranking_by_points_and_lines(
    on: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    database, queries = folder_of(tmp_path / "database", range(5)), folder_of(tmp_path / "queries", range(2), 8)
    (database / "broken.png").write_bytes(b"no image")
    out, among = tmp_path / "run", ["--database", str(database), "--queries", str(queries)]
    shortlist = ["global_descriptor.method=thumbnail", "rerank.k=5", "evaluation.recall_at=[1]"]
    call(["run", *among, "--out", str(out), *options([*on, *shortlist])])
    rows = [line.split(", ") for line in (out / "reranked_predictions.txt").read_text().splitlines() if line[0] != "#"]
    firsts = {row[0]: row[1] for row in reversed(rows)}
    assert all(Path(query).stem == Path(firsts[query]).stem for query in firsts) and len(firsts) == 2
    call(["inspect", str(out), "--out", str(tmp_path / "page.html")])
    page = (tmp_path / "page.html").read_text()
    assert '"segments":[[' in page and "show-lines" in page
    ranked = tmp_path / "ranked"
    call(["rank", str(queries / "1.png"), "--among", str(database), "--out", str(ranked), *options(on)])
    table = list(csv.DictReader((ranked / "ranking_score.csv").read_text().splitlines()))
    assert table[0]["image"] == "1.png" and len(table) == 5  # without the broken one
    drawing = tmp_path / "matches.svg"
    pair = [str(queries / "1.png"), str(database / "1.png")]
    call(["match-two", *pair, "--out", str(drawing), *options(on)])
    assert " agree" in capsys.readouterr().out
    assert drawing.read_text().count("<image") == 4 and 'class="segments"' in drawing.read_text()


def test_other_matchers_match_no_lines(tmp_path: Path) -> None:
    for chosen in ({}, {"image_matcher": {"method": "xfeat_semi_dense"}}):
        with pytest.raises(ConfigError, match=r"needs image_matcher\.method = 'gluestick', not '(loftr|xfeat)"):
            configured(None, {"rerank": {"method": "points_and_lines"}, **chosen})
    with pytest.raises(ConfigError, match=r"rerank\.method = 'points_and_lines' compares the queries as they are"):
        lines = {"rerank": {"method": "points_and_lines"}, "image_matcher": {"method": "gluestick"}}
        configured(None, {**lines, "rotations": {"degrees": [0, 90]}})


# --- drawings


def test_partners_are_drawn_in_one_colour() -> None:
    one = ends((5, 5, 5, 30), (20, 5, 20, 30), (35, 5, 35, 30)).astype(np.float32)
    found = MatchedSegments(one, one[:, ::-1] + [0, 5], np.array([True, True, False]))
    colours = found.colours()
    assert len({tuple(each) for each in colours.tolist()}) == 3 and tuple(colours[2]) == REJECTED_RGB
    black = np.zeros((50, 50, 3), np.uint8)
    drawn = draw_segments(black, black, found)
    for row, x in enumerate((5, 20, 35)):
        assert drawn[15, x].tolist() == drawn[15, x + 58].tolist() == colours[row].tolist()
    assert (draw_segments(black, black, MatchedSegments(one[:0], one[:0], np.zeros(0, bool)))[:, :50] == 0).all()
    with pytest.raises(ValueError, match="are not of"):
        MatchedSegments(one, one[:2], np.ones(3, bool))


@pytest.mark.parametrize("method", ["points_and_lines", "images"])
def test_maps_compare_local_features(method: str, tmp_path: Path) -> None:
    values = {"rerank": {"method": method}, "image_matcher": {"method": "gluestick"}}
    with pytest.raises(ConfigError, match=f"a map compares local features; rerank.method = '{method}' is not for maps"):
        Map.begin(tmp_path / "city", configured(None, values), "default")
