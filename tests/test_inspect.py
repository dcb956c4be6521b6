"""``vpr inspect``: which items are shown, what reaches the page, and the page worked in a headless Chromium."""

from __future__ import annotations

import json
import math
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browsers import opened
from conftest import textured, write_picture
from geometry_sets import write_homography_folder
from test_cli import Folders, run_on
from test_hostile import call

from vpr.core import ConfigError, DataError
from vpr.datasets.homography_pairs import read_homography_folder
from vpr.datasets.pair_records import read_pairs, write_pairs
from vpr.datasets.pose_pairs import read_pair_list
from vpr.inspection.items import InspectedPair, chosen_items, each_once, in_common
from vpr.inspection.page import write_page
from vpr.inspection.queries import InspectedQueries
from vpr.report.drawing import Correspondences

HOSTILE = "</script><img src=x onerror=document.title='hacked'>.png"
ROOTSIFT = ("--set", "local_features.method=rootsift", "--set", "local_features.max_keypoints=200")
THUMBNAIL = ("--set", "global_descriptor.method=thumbnail")


class Made:
    """A run of four items, made up; the second image of a pair is the first, moved by 10 pixels."""

    kind = "queries"
    main = "inliers"
    rightness = "as made up"

    def __init__(self, folder: Path, inliers: Sequence[float], right: Sequence[bool | None]) -> None:
        self.names = ("a.png", HOSTILE, "c.png", "d.png")
        self.metrics: Mapping[str, Sequence[float]] = {"inliers": inliers, "error": [0.5, 2.0, math.inf, math.nan]}
        self.right = right
        self.image = folder / "image.png"
        if not self.image.exists():
            write_picture(self.image, textured(0, 120, 160))

    def pairs(self, item: int) -> list[InspectedPair]:
        points = np.array([[10.0, 20.0], [30.0, 40.0], [50.0, 60.0]])
        found = Correspondences(
            points, points + 10, np.array([True, True, False]), np.array([0.9, 0.2, 0.5], np.float32), points, points
        )
        name = self.names[item]
        titles = ["first candidate, wrong", "best right candidate"][: 1 + (self.right[item] is False)]
        sizes = ((160, 120), (160, 120))
        return [InspectedPair(each, "2 of 3", (self.image, self.image), (name, "b"), sizes, found) for each in titles]


def two(folder: Path) -> list[Made]:
    return [
        Made(folder, [10, 50, 30, 20], [True, False, True, False]),
        Made(folder, [12, 90, 31, 20], [True, True, True, False]),
    ]


def data_of(page: Path) -> dict[str, Any]:
    text = re.search(r'id="data">(.*?)</script>', page.read_text(), re.DOTALL)
    assert text is not None
    content: dict[str, Any] = json.loads(text[1])
    return content


# --- what is shown


def test_items_in_common_and_those_that_differ_come_first(tmp_path: Path) -> None:
    runs = two(tmp_path)
    items = in_common(runs, ["a", "b"])
    assert items.names == runs[0].names and items.rows == ((0, 1, 2, 3),) * 2
    assert chosen_items(items, runs, 1) == [1]  # right in one run only
    assert chosen_items(items, runs, 0) == [] and chosen_items(items, runs, 9) == [0, 1, 2, 3]
    assert 1 in chosen_items(items, runs, 2) and len(chosen_items(items, runs, 2)) == 2
    alone = in_common(runs[:1], ["a"])
    assert set(chosen_items(alone, runs[:1], 4)) == {0, 1, 2, 3}
    assert chosen_items(alone, runs[:1], 1) in ([1], [3])  # a wrong one
    assert each_once(["x", "y", "x"]) == ("x", "y", "x (2)")


def test_runs_that_do_not_compare_are_refused(tmp_path: Path) -> None:
    one, other = two(tmp_path)
    other.names = ("e", "f", "g", "h")
    with pytest.raises(ConfigError, match="no queries in common"):
        in_common([one, other], ["a", "b"])
    other.kind = "pairs"
    with pytest.raises(ConfigError, match="different kinds"):
        in_common([one, other], ["a", "b"])


def test_the_page_holds_metrics_and_points_by_hand(tmp_path: Path) -> None:
    write_page(tmp_path / "p.html", two(tmp_path), ["a", "<b>"], 2)
    text, data = (tmp_path / "p.html").read_text(), data_of(tmp_path / "p.html")
    assert data["names"][1] == HOSTILE and HOSTILE not in text and "<b>" not in text
    assert "http:" not in text.replace("http://www.w3.org/2000/svg", "") and "https:" not in text
    assert data["runs"][0]["metrics"]["error"] == [0.5, 2.0, "inf", None]
    assert len(data["images"]) == 1 and data["images"][0]["width"] == 160
    first = data["pairs"]["1"][0][0]
    assert first["inliers"] == [[10.5, 20.5, 20.5, 30.5, 90.0], [30.5, 40.5, 40.5, 50.5, 20.0]]
    assert first["rejected"] == [[50.5, 60.5, 60.5, 70.5, 50.0]] and len(first["keypoints"][0]) == 3


def test_pairs_are_kept_with_their_geometry(tmp_path: Path) -> None:
    write_homography_folder(tmp_path / "set", pairs=2)
    camera, pose = "300 0 80 0 300 60 0 0 1", "1 0 0 0.1 0 0 -1 0.2 0 1 0 0.3 0 0 0 1"
    (tmp_path / "list.txt").write_text(f"a.png b.png 1 0 {camera} {camera} {pose}\n")
    for pairs in (read_homography_folder(tmp_path / "set"), read_pair_list(tmp_path / "list.txt", tmp_path)):
        write_pairs(tmp_path / "pairs.jsonl", pairs)
        for before, after in zip(pairs, read_pairs(tmp_path / "pairs.jsonl"), strict=True):
            assert type(after) is type(before) and after.name == before.name
            for key, value in vars(before).items():
                assert np.array_equal(getattr(after, key), value)
    (tmp_path / "pairs.jsonl").write_text('{"first": "a", "second": "b", "homography": [[1, 2], [3, 4]], "part": ""}\n')
    with pytest.raises(DataError, match="line 1: not a pair of images"):
        read_pairs(tmp_path / "pairs.jsonl")


# --- the command


def test_two_runs_of_place_recognition(small_city: Folders, tmp_path: Path) -> None:
    run_on(small_city, tmp_path / "a", *ROOTSIFT, *THUMBNAIL)
    run_on(small_city, tmp_path / "b", *ROOTSIFT, *THUMBNAIL, "--set", "rerank.k=0")
    call(["inspect", f"{tmp_path}/a", f"{tmp_path}/b", "--items", "3"])
    data = data_of(tmp_path / "a" / "inspect.html")
    assert data["kind"] == "queries" and [run["title"] for run in data["runs"]] == ["a", "b"]
    assert len(data["names"]) == 5 and len(data["pairs"]) == 3
    lines = [json.loads(line) for line in (tmp_path / "a" / "predictions.jsonl").read_text().splitlines()]
    inliers = {line["query"]: line["inliers"] for line in lines if line["rank"] == 1}
    for name, value in zip(data["names"], data["runs"][0]["metrics"]["inliers"], strict=True):
        assert value == inliers[name]
    for item, (of_a, _) in data["pairs"].items():  # matched again, from the features that the run kept
        if of_a[0]["title"] == "first candidate, right":
            assert len(of_a[0]["inliers"]) == inliers[data["names"][int(item)]]
    shutil.rmtree(tmp_path / "a" / "features")  # or from the images
    call(["inspect", f"{tmp_path}/a", "--items", "2", "--out", f"{tmp_path}/alone.html"])
    assert len(data_of(tmp_path / "alone.html")["pairs"]) == 2


def test_masked_runs_are_shown_and_turned_ones_refused(small_city: Folders, tmp_path: Path) -> None:
    mask = np.full((120, 160, 3), 255, np.uint8)
    mask[60:] = 0
    write_picture(tmp_path / "mask.png", mask)
    run_on(small_city, tmp_path / "masked", *ROOTSIFT, *THUMBNAIL, "--masks", str(tmp_path / "mask.png"))
    shown = InspectedQueries(tmp_path / "masked").pairs(0)[0].matches
    assert len(shown.query_points) and (shown.query_points[:, 1] < 60).all()
    run_on(small_city, tmp_path / "turned", *ROOTSIFT, *THUMBNAIL, "--set", "rotations.degrees=[0,180]")
    with pytest.raises(ConfigError, match="turns no images"):
        InspectedQueries(tmp_path / "turned").pairs(0)


def test_a_benchmark_of_homographies(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_homography_folder(tmp_path / "set")
    plain = [
        "evaluate",
        "homography-folder",
        f"{tmp_path}/set",
        "--examples",
        "0",
        "--estimator",
        "opencv:3",
        *ROOTSIFT,
    ]
    call([*plain, "--out", f"{tmp_path}/a"])
    call([*plain, "--out", f"{tmp_path}/b", "--set", "matcher.ratio=0.6"])
    call(["inspect", f"{tmp_path}/a", f"{tmp_path}/b"])
    data = data_of(tmp_path / "a" / "inspect.html")
    a, b = (run["metrics"]["correct_matches"] for run in data["runs"])
    assert data["kind"] == "pairs" and len(a) == 3 and sum(b) < sum(a)
    assert [len(data["pairs"][str(i)][0][0]["inliers"]) for i in range(3)] == a
    (tmp_path / "a" / "pairs.jsonl").unlink()
    capsys.readouterr()
    with pytest.raises(SystemExit):
        call(["inspect", f"{tmp_path}/a"])
    assert "pairs.jsonl: no such file; run vpr evaluate again" in capsys.readouterr().err


def test_a_folder_without_a_run_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        call(["inspect", f"{tmp_path}"])
    assert "no such file; give the folder of a finished run" in capsys.readouterr().err


# --- in a browser


@pytest.fixture
def page(browser: Any, tmp_path: Path) -> Iterator[Any]:
    """The page of two runs."""
    write_page(tmp_path / "p.html", two(tmp_path), ["one", "other"], 3)
    with opened(browser, tmp_path / "p.html") as page:
        yield page


def test_a_click_shows_both_methods_side_by_side(page: Any) -> None:
    assert page.locator(".mark").count() == 4
    page.locator('.mark[data-item="1"]').click()
    assert page.locator("#name").text_content() == HOSTILE
    boxes = [box.bounding_box() for box in page.locator(".method").all()]
    assert len(boxes) == 2 and boxes[0]["y"] == boxes[1]["y"] and boxes[0]["x"] < boxes[1]["x"]
    assert page.locator(".method .drawing image").count() == 4
    assert page.locator("#metrics tr", has_text="inliers").locator("td").all_text_contents() == ["inliers", "50", "90"]


def test_hostile_names_stay_text(page: Any) -> None:
    page.locator('.mark[data-item="1"]').click()
    assert page.title() == "vpr inspect: one and other" and page.locator("img").count() == 0


def test_keys_step_through_the_items_and_switch_layers(page: Any) -> None:
    shown = page.evaluate("Object.keys(JSON.parse(document.getElementById('data').textContent).pairs).map(Number)")
    names = [page.locator("#item option").nth(item).text_content() for item in shown]
    seen = [page.locator("#name").text_content()]
    for _ in range(2):
        page.keyboard.press("ArrowRight")
        seen.append(page.locator("#name").text_content())
    assert seen == names
    page.keyboard.press("ArrowRight")
    assert page.locator("#name").text_content() == seen[0]
    page.keyboard.press("ArrowLeft")
    assert page.locator("#name").text_content() == seen[2]
    counts = {key: page.locator(f".method[data-run='0'] .{name}") for key, name in
              (("i", "inlier"), ("r", "reject"), ("k", "dots"))}  # fmt: skip
    assert [each.count() for each in counts.values()] == [2, 0, 0]  # two levels of confidence
    for key in "irk":
        page.keyboard.press(key)
    assert [each.count() for each in counts.values()] == [0, 1, 2]


def test_the_other_candidate(page: Any) -> None:
    page.locator('.mark[data-item="0"]').click()
    assert page.locator("#candidate").is_hidden()  # both are right
    page.locator('.mark[data-item="1"]').click()
    said = page.locator(".method[data-run='0'] .facts")
    assert said.text_content() == "first candidate, wrong: 2 of 3"
    page.locator("#candidate").click()
    assert said.text_content() == "best right candidate: 2 of 3"
    page.keyboard.press("c")
    assert said.text_content() == "first candidate, wrong: 2 of 3"


def test_other_axes_and_items_without_matches(page: Any) -> None:
    page.locator("#y-axis").select_option(label="A: error")
    assert page.locator(".mark").count() == 3  # one value is not known
    assert "1 have no value on these axes" in page.locator("#counts").text_content()
    page.locator("#log").check()
    assert page.locator(".mark").count() == 3
    without = page.locator(".mark.plain")
    assert without.count() <= 1
    hidden = next(item for item in range(4) if str(item) not in page.evaluate(
        "Object.keys(JSON.parse(document.getElementById('data').textContent).pairs)"))  # fmt: skip
    page.locator("#item").select_option(str(hidden))
    assert "larger --items" in page.locator(".method .facts").first.text_content()


@pytest.mark.parametrize("width", [360, 1280])
def test_nothing_sticks_out_at_the_side(page: Any, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 800})
    page.locator('.mark[data-item="1"]').click()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
