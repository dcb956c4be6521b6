"""``vpr evaluate``, from small sets in the official layouts to the files it leaves."""

from __future__ import annotations

import csv
import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import textured, write_picture
from geometry_sets import pair_list, write_homography_folder, write_hpatches
from test_hostile import call

from vpr.datasets.homography_pairs import read_homography_folder
from vpr.demo_city import write_demo_city
from vpr.geometry import homography_benchmark, pose_benchmark, rows
from vpr.geometry.homography_benchmark import HOMOGRAPHY_PROTOCOLS, HomographyBench, summarise_homographies
from vpr.geometry.matching import FeatureMatching
from vpr.geometry.rows import Estimator
from vpr.geometry.views import Resize, Views
from vpr.images import turned_back
from vpr.local_features import rootsift

CPU = torch.device("cpu")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_homography_folder(tmp_path / "set")
    return tmp_path / "set"


@pytest.fixture(scope="module")
def city(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("geometry") / "city"
    write_demo_city(out, places=2, seed=0, size=(320, 240), workers=1)
    return out


def evaluate(command: str, source: Path, out: Path, *more: str) -> dict[str, Any]:
    call(["evaluate", command, str(source), "--out", str(out), "--set", "local_features.method=rootsift", *more])
    summary: dict[str, Any] = json.loads((out / "summary.json").read_text())
    return summary


def table(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def of(summary: dict[str, Any], name: str, **chosen: str) -> dict[str, Any]:
    """The one row of a table with these values."""
    (row,) = [row for row in summary["tables"][name] if all(row[key] == value for key, value in chosen.items())]
    return dict(row)


# --- homographies


def test_a_folder_of_homographies(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    summary = evaluate("homography-folder", folder, tmp_path / "out")
    said = capsys.readouterr().out
    features = of(summary, "features", part="all")
    assert features["pairs"] == 3
    assert features["precision"] > 0.9
    assert features["repeatability"] > 0.5
    assert features["localisation_error"] < 1
    assert features["nn_map_true"] > 0.9
    assert 0 < features["matching_score_true"] <= 1
    found = of(summary, "homographies", estimator="opencv 3px")
    assert found["correct_3px"] == 1
    assert found["auc_5px"] > 0.8
    matches = of(summary, "features", part="all")["matches"]
    assert found["mean_inliers"] <= matches and 0.5 < found["inlier_ratio"] <= 1
    assert of(summary, "homographies", estimator="dlt")["mean_inliers"] is None  # it has no threshold
    assert of(summary, "homographies", estimator="verification")["correct_3px"] == 1
    assert "protocol plain" in said and "| all | opencv 3px |" in said
    measured = table(tmp_path / "out" / "rows.csv")
    assert [row["pair"] for row in measured] == ["set/0a 0b", "set/1a 1b", "set/2a 2b"]
    mean = np.mean([float(row["repeatability"]) for row in measured])
    assert features["repeatability"] == pytest.approx(mean)
    text, *examples = (tmp_path / "out" / "summary.md").read_text().split("\n![")
    assert said.startswith(text.rstrip()) and len(examples) == 3


def test_examples_go_from_the_most_correct_matches_to_the_fewest(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    evaluate("homography-folder", folder, out)
    counts = {row["pair"]: int(row["correct_matches"]) for row in table(out / "rows.csv")}
    names = [re.split("[/ ]", name)[1:] for name in sorted(counts, key=lambda name: -counts[name])]
    drawn = sorted((out / "examples").iterdir())
    assert [path.name for path in drawn] == [f"{i:02d}_{a}_{b}.jpg" for i, (a, b) in enumerate(names, 1)]
    evaluate("homography-folder", folder, out, "--examples", "2", "--viz-extension", "svg")  # measured before
    drawn = sorted((out / "examples").iterdir())
    assert [path.suffix for path in drawn] == [".svg", ".svg"] and "keypoints" not in drawn[0].read_text()
    evaluate("homography-folder", folder, out, "--examples", "1", "--viz-extension", "svg", "--show-keypoints")
    assert [path.read_text().count('class="keypoints"') for path in (out / "examples").iterdir()] == [2]
    evaluate("homography-folder", folder, out, "--examples", "0")
    assert not (out / "examples").exists()


def test_the_summary_says_how_it_was_made(folder: Path, tmp_path: Path) -> None:
    summary = evaluate("homography-folder", folder, tmp_path / "out", "--first", "1")
    assert summary["pairs"] == 1
    assert summary["protocol"] == "plain"
    assert summary["command"].startswith("vpr evaluate homography-folder")
    assert "numpy" in summary["versions"]
    assert 'method = "rootsift"' in summary["settings"]


@pytest.mark.parametrize("protocol", HOMOGRAPHY_PROTOCOLS)
def test_hpatches_in_every_protocol(tmp_path: Path, protocol: str) -> None:
    write_hpatches(tmp_path / "hpatches")
    summary = evaluate(
        "hpatches", tmp_path / "hpatches", tmp_path / "out", "--protocol", protocol, "--estimator", "opencv:3"
    )
    assert [row["part"] for row in summary["tables"]["features"]] == ["all", "illumination", "viewpoint"]
    found = of(summary, "homographies", part="illumination", estimator="opencv 3px")
    assert found["correct_3px"] == 1
    assert of(summary, "homographies", part="viewpoint", estimator="shared points")["correct_5px"] >= 0.8


def test_glue_factory_leaves_large_sequences_out_unless_asked(tmp_path: Path) -> None:
    write_hpatches(tmp_path / "hpatches", ("i_dc", "v_wall"), size=(120, 100))
    run = ("hpatches", tmp_path / "hpatches", tmp_path / "out", "--estimator", "dlt")
    assert evaluate(*run)["pairs"] == 5
    assert evaluate(*run, "--large")["pairs"] == 10
    other = ("hpatches", tmp_path / "hpatches", tmp_path / "other", "--estimator", "dlt", "--protocol", "superpoint")
    assert evaluate(*other)["pairs"] == 10


def test_swept_thresholds_have_a_best_row_that_says_so(folder: Path, tmp_path: Path) -> None:
    thresholds = [part for px in ("0.5", "3") for part in ("--estimator", f"opencv:{px}")]
    summary = evaluate("homography-folder", folder, tmp_path / "out", *thresholds)
    estimators = [row["estimator"] for row in summary["tables"]["homographies"]]
    assert estimators[:3] == ["shared points", "opencv 0.5px", "opencv 3px"]
    assert estimators[3].endswith("px, best of 2 on these pairs")
    best = max(row["auc_3px"] for row in summary["tables"]["homographies"][1:3])
    assert summary["tables"]["homographies"][3]["auc_3px"] == pytest.approx(best, abs=0.05)


@pytest.mark.parametrize("method", ["sift", "orb"])
def test_local_features_are_chosen_as_for_a_run(folder: Path, tmp_path: Path, method: str) -> None:
    chosen = ("--set", f"local_features.method={method}", "--set", "matcher.ratio=0.95", "--first", "1")
    summary = evaluate("homography-folder", folder, tmp_path / "out", *chosen)
    assert f'method = "{method}"' in summary["settings"]
    assert of(summary, "homographies", estimator="opencv 3px")["correct_3px"] == 1


def test_the_protocol_sets_the_methods_and_the_user_is_above_it(folder: Path, tmp_path: Path) -> None:
    asked = ("--first", "1", "--protocol", "superpoint")
    settings = evaluate("homography-folder", folder, tmp_path / "plain", *asked)["settings"]
    assert "max_keypoints = 1000" in settings and "ratio = 1.0" in settings
    settings = evaluate(
        "homography-folder", folder, tmp_path / "fewer", *asked, "--set", "local_features.max_keypoints=300"
    )["settings"]
    assert "max_keypoints = 300" in settings and "ratio = 1.0" in settings


def test_errors_are_measured_at_the_size_that_is_asked_for(folder: Path, tmp_path: Path) -> None:
    summary = evaluate("homography-folder", folder, tmp_path / "out", "--longest-side", "200")
    assert summary["size"] == "longest side 200 pixels"
    assert "longest_side = 200" in summary["settings"]
    assert of(summary, "homographies", estimator="opencv 3px")["correct_3px"] == 1


def test_features_of_a_smaller_image_are_measured_where_the_points_lie(folder: Path, tmp_path: Path) -> None:
    """The method shrinks the pictures to half: points are brought back, and are half as exact."""
    small = evaluate("homography-folder", folder, tmp_path / "out", "--set", "local_features.longest_side=200")
    assert of(small, "homographies", estimator="opencv 3px")["correct_5px"] == 1


def test_again_it_computes_nothing_and_writes_the_same(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    evaluate("homography-folder", folder, out)
    first = (out / "rows.csv").read_bytes()
    monkeypatch.setattr(HomographyBench, "row", None)
    evaluate("homography-folder", folder, out)
    assert (out / "rows.csv").read_bytes() == first


@pytest.mark.parametrize(
    ("more", "named"),
    [
        (("--set", "matcher.ratio=0.7"), "matcher.ratio = 0.88, now 0.7"),
        (("--set", "local_features.max_keypoints=99"), "local_features.max_keypoints = 1024, now 99"),
        (("--set", "verification.threshold=9"), "verification.threshold = "),
        (("--longest-side", "300"), "size = "),
        (("--estimator", "dlt"), "estimators = "),
        (("--protocol", "superpoint"), "protocol = plain, now superpoint"),
    ],
)
def test_other_settings_leave_the_tables_as_they_are(
    more: tuple[str, ...], named: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    evaluate("homography-folder", folder, out, "--first", "1")
    kept = {path.name: path.read_bytes() for path in out.glob("*.*")}
    with pytest.raises(SystemExit, match="1"):
        evaluate("homography-folder", folder, out, "--first", "1", *more)
    said = capsys.readouterr().err
    assert "measured with other settings" in said and named in said and "another --out" in said
    assert {path.name: path.read_bytes() for path in out.glob("*.*")} == kept


def test_a_summary_that_does_not_say_its_settings_is_kept(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/summary.json").write_text('{"benchmark": "homography-folder"}')
    with pytest.raises(SystemExit, match="1"):
        evaluate("homography-folder", folder, tmp_path / "out", "--first", "1")
    assert "does not say with what settings it was measured" in capsys.readouterr().err


def test_more_pairs_go_into_the_same_folder(folder: Path, tmp_path: Path) -> None:
    assert evaluate("homography-folder", folder, tmp_path / "out", "--first", "1")["pairs"] == 1
    assert evaluate("homography-folder", folder, tmp_path / "out")["pairs"] > 1


def test_other_truth_of_the_same_images_is_measured_anew(folder: Path, tmp_path: Path) -> None:
    evaluate("homography-folder", folder, tmp_path / "out", "--first", "1")
    listed = folder / "homographies.csv"
    listed.write_text(listed.read_text().replace("1.05", "1.25"))
    summary = evaluate("homography-folder", folder, tmp_path / "out", "--first", "1")
    assert of(summary, "homographies", estimator="opencv 3px")["correct_5px"] == 0


def test_a_row_that_a_killed_run_left_unfinished_is_measured_again(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    evaluate("homography-folder", folder, out)
    first = (out / "rows.csv").read_bytes()
    (kept,) = (out / "work").iterdir()
    kept.write_bytes(kept.read_bytes()[:-40])
    evaluate("homography-folder", folder, out)
    assert (out / "rows.csv").read_bytes() == first


def test_a_image_that_cannot_be_read_is_a_failure_of_its_pair(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (folder / "1b.png").write_bytes(b"")
    summary = evaluate("homography-folder", folder, tmp_path / "out")
    assert "1b.png: the file is empty; its pair counts as a failure" in caplog.text
    assert of(summary, "homographies", estimator="opencv 3px")["correct_3px"] == pytest.approx(2 / 3)
    assert of(summary, "features", part="all")["repeatability"] < 2 / 3
    measured = table(tmp_path / "out" / "rows.csv")
    assert [bool(row["problem"]) for row in measured] == [False, True, False]
    assert measured[1]["error_px opencv 3px"] == "inf"


def test_a_image_that_cannot_be_read_may_be_fatal(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "1b.png").write_bytes(b"")
    with pytest.raises(SystemExit):
        evaluate("homography-folder", folder, tmp_path / "out", "--set", "images.on_bad_image=fail")
    assert "1b.png: the file is empty" in capsys.readouterr().err


def test_images_without_points_are_no_accident(tmp_path: Path) -> None:
    write_homography_folder(tmp_path / "set", 2)
    for name in ("0a", "0b", "1b"):
        write_picture(tmp_path / "set" / f"{name}.png", np.zeros((60, 80, 3), np.uint8))
    summary = evaluate("homography-folder", tmp_path / "set", tmp_path / "out")
    features = of(summary, "features", part="all")
    assert (features["matches"], features["precision"], features["nn_map_true"]) == (0, 0, 0)
    assert features["localisation_error"] is None
    found = of(summary, "homographies", estimator="opencv 3px")
    assert (found["correct_5px"], found["auc_5px"], found["median_error_px"]) == (0, 0, None)
    assert (found["mean_inliers"], found["inlier_ratio"]) == (0, 0)


def test_a_verifier_that_verifies_nothing_has_no_row(folder: Path, tmp_path: Path) -> None:
    summary = evaluate("homography-folder", folder, tmp_path / "out", "--set", "verification.method=none")
    assert "verification" not in [row["estimator"] for row in summary["tables"]["homographies"]]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--protocol", "sp"], "unknown protocol 'sp'; known: plain, superpoint"),
        (["--estimator", "ransac"], "unknown estimator 'ransac'; known: verification, dlt, opencv, poselib"),
        (["--estimator", "opencv"], "give a threshold in pixels, for instance opencv:1.5"),
        (["--estimator", "opencv:-1"], "give a threshold in pixels"),
        (["--estimator", "opencv:nan"], "give a threshold in pixels"),
        (["--estimator", "dlt:3"], "dlt takes no threshold"),
        (["--set", "local_features.method=brisk"], "unknown local feature 'brisk'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_is_not_known_is_said(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], message: str
) -> None:
    with pytest.raises(SystemExit):
        evaluate("homography-folder", folder, tmp_path / "out", *more)
    assert message in capsys.readouterr().err


def test_an_estimator_without_its_library(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Left out of what a protocol names; an error if it was asked for."""
    monkeypatch.setattr("vpr.geometry_benchmark.find_spec", lambda name: None)
    summary = evaluate("homography-folder", folder, tmp_path / "out", "--first", "1")
    assert not [row for row in summary["tables"]["homographies"] if "poselib" in row["estimator"]]
    with pytest.raises(SystemExit):
        evaluate("homography-folder", folder, tmp_path / "out", "--estimator", "poselib:1")
    assert "needs poselib: pip install" in capsys.readouterr().err


# --- relative poses


def test_poses_of_a_demo_city(city: Path, tmp_path: Path) -> None:
    summary = evaluate("pose-folder", city, tmp_path / "out", "--estimator", "opencv:0.5", "--estimator", "magsac:1")
    matches = of(summary, "matches", part="all")
    assert matches["precision_superglue_5e-4"] > 0.5
    assert matches["correct_matches"] > 20
    found = of(summary, "poses", part="all", estimator="opencv 0.5px")
    assert found["convention"] == "Glue Factory on MegaDepth, LoFTR"
    assert found["auc_20deg"] > 0.6
    assert found["auc_5deg"] <= found["auc_10deg"] <= found["auc_20deg"] <= found["auc_50deg"]


def test_every_layout_of_a_pair_list_gives_the_same_poses(city: Path, tmp_path: Path) -> None:
    measured = []
    for command, fields in (("megadepth1500", 32), ("scannet1500", 36), ("yfcc", 38)):
        path = tmp_path / f"{command}.txt"
        path.write_text(pair_list(city, fields))
        more = ("--images", str(city), "--longest-side", "320", "--set", "local_features.max_keypoints=800")
        evaluate(command, path, tmp_path / command, *more, "--estimator", "opencv:1", "--first", "3")
        measured.append((tmp_path / command / "rows.csv").read_bytes())
    assert measured[0] == measured[1] == measured[2]


def test_protocols_bring_images_to_their_size(city: Path, tmp_path: Path) -> None:
    path = tmp_path / "pairs.txt"
    path.write_text(pair_list(city, 32))
    more = ("--images", str(city), "--first", "1", "--estimator", "opencv:1")
    scannet = evaluate("scannet1500", path, tmp_path / "scannet", *more)
    assert scannet["size"] == "640 x 480 pixels"
    assert "max_keypoints = 1024" in scannet["settings"]
    assert evaluate("megadepth1500", path, tmp_path / "megadepth", *more)["size"] == "longest side 1600 pixels"


def test_verification_of_the_settings_gives_poses_too(city: Path, tmp_path: Path) -> None:
    more = ("--estimator", "verification", "--set", "verification.threshold=1", "--first", "3")
    summary = evaluate("pose-folder", city, tmp_path / "out", *more)
    assert of(summary, "poses", part="all", estimator="verification")["auc_50deg"] > 0.5


def test_a_pair_without_matches_has_no_pose(city: Path, tmp_path: Path) -> None:
    more = ("--set", "matcher.min_similarity=1", "--first", "1")
    summary = evaluate("pose-folder", city, tmp_path / "out", *more)
    matches = of(summary, "matches", part="all")
    assert matches["matches"] == matches["matching_score"] == matches["precision_imp_5e-3"] == 0
    for row in summary["tables"]["poses"]:
        assert (row["auc_50deg"], row["median_error_deg"]) == (0, None)


def test_a_missing_image_is_a_pose_that_failed(city: Path, tmp_path: Path) -> None:
    path = tmp_path / "pairs.txt"
    path.write_text(pair_list(city, 32))  # relative to the list's folder, where there are no pictures
    summary = evaluate("yfcc", path, tmp_path / "out", "--first", "2")
    assert of(summary, "matches", part="all")["precision_superglue_5e-4"] == 0
    assert all(row["auc_20deg"] == 0 for row in summary["tables"]["poses"])


@pytest.mark.parametrize(
    "command", ["", "hpatches", "homography-folder", "megadepth1500", "scannet1500", "yfcc", "pose-folder"]
)
def test_every_benchmark_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    call(["evaluate", *command.split(), "--help"])
    assert re.search(r"Usage: .* evalu", capsys.readouterr().out)


# --- what the commands rest on


def views(how: Resize) -> Views:
    return Views(rootsift.build(rootsift.Settings(), CPU), how)


@pytest.mark.parametrize("turns", range(4))
def test_a_image_stored_on_its_side_is_seen_upright(tmp_path: Path, turns: int) -> None:
    """The same features as of the upright picture, at the places of the stored one."""
    upright = textured(3, 90, 120)
    stored = np.ascontiguousarray(np.rot90(upright, -turns))
    seen = views(Resize()).view(write_picture(tmp_path / "turned.png", stored), turns)
    expected = views(Resize()).view(write_picture(tmp_path / "upright.png", upright))
    torch.testing.assert_close(seen.features.descriptors, expected.features.descriptors)
    assert seen.size == (stored.shape[1], stored.shape[0])
    grey, turned = upright[..., 0], stored[..., 0]
    for x, y in expected.points[:40].round().astype(int):
        ((x2, y2),) = turned_back(np.array([[x, y]], dtype=float), turns, seen.size).astype(int)
        assert turned[y2, x2] == grey[y, x]
    np.testing.assert_allclose(seen.points, turned_back(expected.points, turns, seen.size))


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        (Resize(), (400, 300)),
        (Resize("longest", 200), (200, 150)),
        (Resize("longest", 800), (400, 300)),
        (Resize("longest", 800, enlarge=True), (800, 600)),
        (Resize("shortest", 150), (200, 150)),
        (Resize("exactly", size=(320, 240)), (320, 240)),
    ],
    ids=str,
)
def test_sizes_at_which_is_measured(tmp_path: Path, how: Resize, expected: tuple[int, int]) -> None:
    view = views(how).view(write_picture(tmp_path / "a.png", textured(0, 300, 400)))
    assert view.size == expected
    assert view.factors == pytest.approx((expected[0] / 400, expected[1] / 300))


def test_views_are_kept_for_a_while(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vpr.geometry.views.KEPT", 2)
    paths = [write_picture(tmp_path / f"{i}.png", textured(i, 60, 80)) for i in range(3)]
    source = views(Resize())
    first = source.view(paths[0])
    source.view(paths[1])
    assert source.view(paths[0]) is first
    second = source.view(paths[1])
    source.view(paths[2])
    assert source.view(paths[1]) is second
    assert source.view(paths[0]) is not first


def test_a_failed_row_has_the_columns_of_the_estimators(folder: Path) -> None:
    judged = [Estimator("opencv", 3.0), Estimator("dlt")]
    bench = HomographyBench(FeatureMatching(views(Resize()), object()), None, HOMOGRAPHY_PROTOCOLS["plain"], judged)  # type: ignore[arg-type]
    assert [key for key in bench.failed() if key.startswith("error")] == [
        "error_px shared points",
        "error_px opencv 3px",
        "error_px dlt",
    ]
    pose = pose_benchmark.PoseBench(FeatureMatching(views(Resize()), object()), None, judged[:1])  # type: ignore[arg-type]
    assert pose.failed()["error_deg opencv 3px"] == math.inf
    assert len(read_homography_folder(folder)) == 3


def test_a_summary_of_one_part_has_no_rows_of_parts() -> None:
    row: rows.Row = {"pair": "a", "part": "x", "matches": 4, "error_px dlt": 2.0}
    tables = summarise_homographies([row, {**row, "matches": 6, "error_px dlt": math.inf}])
    assert [each["part"] for each in tables["features"]] == ["all"]
    assert tables["features"][0]["matches"] == 5
    assert tables["homographies"][0]["correct_3px"] == 0.5
    assert homography_benchmark.BOUNDS == (1, 3, 5)


def test_tables_in_markdown_and_csv() -> None:
    made: list[rows.Row] = [{"name": "a|b", "count": 3, "share": 0.5}, {"name": "c", "count": 4, "share": math.nan}]
    assert rows.markdown(made).splitlines() == [
        "| name | count | share |",
        "| --- | ---: | ---: |",
        "| a\\|b | 3 | 0.500 |",
        "| c | 4 | n/a |",
    ]
    parts: list[rows.Row] = [{"part": "all", "pairs": 3, "precision": 0.5}, {"part": "x", "pairs": 2, "precision": 1.0}]
    assert rows.markdown(parts).splitlines() == [
        "| part | all | x |",
        "| --- | ---: | ---: |",
        "| pairs | 3 | 2 |",
        "| precision | 0.500 | 1.000 |",
    ]
    assert rows.csv_table([*made, {"name": "d", "more": 1}]).splitlines()[-1] == "d,,,1"
    assert rows.plain_numbers({"t": made})["t"][1]["share"] is None
