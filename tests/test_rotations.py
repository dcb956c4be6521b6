"""Queries at several rotations: the one that verifies best is kept."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from conftest import write_picture
from maps import small_map, view
from test_hostile import call

import vpr
from vpr.core import ConfigError
from vpr.features.turned import ChosenTurns, turned
from vpr.images import read_image
from vpr.rotations import best_rotation
from vpr.serve.client import answer_of
from vpr.settings import configured

FAST = {"local_features": {"method": "rootsift"}, "global_descriptor": {"method": "thumbnail"}}
FAST |= {"rerank": {"k": 2}, "evaluation": {"recall_at": [1]}}


@pytest.fixture
def turned_city(small_city: tuple[Path, Path], tmp_path: Path) -> tuple[Path, Path]:
    """Brighter images of the first four places, turned clockwise by 0, 90, 180 and 270 degrees."""
    queries = tmp_path / "turned" / "queries"
    for i, path in enumerate(sorted(small_city[0].glob("*.png"))[:4]):
        brighter = np.clip(read_image(path, "rgb") + 8.0, 0, 255).astype(np.uint8)
        write_picture(queries / path.name, np.ascontiguousarray(np.rot90(brighter, -i)))
    return small_city[0], queries


def told(out: Path) -> list[int]:
    """Degrees of each query."""
    return [degrees for _, degrees in sorted(json.loads((out / "rotations.json").read_text()).items())]


def test_turned_queries_are_found(
    turned_city: tuple[Path, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The thumbnail finds the place only upright, RootSIFT verifies it there."""
    caplog.set_level("INFO")
    every = {"degrees": [0, 90, 180, 270], "k": 3}
    assert vpr.run(*turned_city, tmp_path / "out", **FAST).recall(1) < 1
    found = vpr.run(*turned_city, tmp_path / "out", **FAST, rotations=every)
    assert found.recall(1) == 1 and told(tmp_path / "out")[0] == 0
    caplog.clear()
    again = vpr.run(*turned_city, tmp_path / "out", **FAST, rotations=every)
    assert (again.predictions.rows == found.predictions.rows).all()
    assert "extract, queries turned by 270: all reused" in caplog.text
    vpr.run(*turned_city, tmp_path / "out", **FAST)
    assert not (tmp_path / "out" / "rotations.json").exists()  # the files are those of one run


def test_without_a_second_stage_the_similarity_decides(turned_city: tuple[Path, Path], tmp_path: Path) -> None:
    chosen = {**FAST, "rerank": {"k": 0}}
    found = vpr.run(*turned_city, tmp_path / "out", **chosen, rotations={"degrees": [0, 90, 180, 270]})
    assert told(tmp_path / "out") == [0, 90, 180, 270] and found.recall(1) == 1


def test_one_rotation_is_that_of_a_camera_mounted_sideways(turned_city: tuple[Path, Path], tmp_path: Path) -> None:
    found = vpr.run(*turned_city, tmp_path / "out", **{**FAST, "rerank": {"k": 0}}, rotations={"degrees": [90]})
    first = [found.dataset.positives[query][0] == found.predictions.rows[query, 0] for query in range(4)]
    assert first[1] and not all(first) and told(tmp_path / "out") == [90] * 4


def test_clearly_most_inliers_decide_and_else_the_similarity() -> None:
    similarity = np.array([[0.5, 0.9, 0.5, 0.3, 0.7], [0.4, 0.2, 0.6, 0.3, 0.1], [0.1, 0.3, 0.7, 0.2, 0.7]])
    inliers = np.array([[10, 10, 0, -1, 30], [16, 15, 9, -1, 29], [8, 9, 7, -1, 44]])
    # 16 over 10, but 15 over 10 is too few more; 9 over 7; nothing sought; 44 over 30 is less than 1.5 times.
    assert best_rotation(similarity, inliers).tolist() == [1, 0, 2, 0, 0]
    assert best_rotation(similarity, None).tolist() == [0, 0, 2, 0, 0]
    assert best_rotation(similarity[:1], inliers[:1]).tolist() == [0] * 5


def test_rows_come_from_the_store_that_was_chosen() -> None:
    class Store(list[str]):
        folder, fingerprint = Path("x"), "y"

    chosen = ChosenTurns([Store(["a0", "a1", "a2"]), Store(["b0", "b1", "b2"])], np.array([1, 0, 1]))
    assert list(chosen) == ["b0", "a1", "b2"] and chosen[1:] == ["a1", "b2"] and chosen.fingerprint == "y"


def test_degrees_are_counter_clockwise() -> None:
    image = np.array([[1, 2], [3, 4]], np.uint8)
    assert turned(image, 90).tolist() == [[2, 4], [1, 3]] and turned(image, 0) is image


def test_a_map_turns_a_photograph_until_it_verifies(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    every = (0, 90, 180, 270)
    for i in (0, 1):
        write_picture(tmp_path / f"{i}.png", np.ascontiguousarray(np.rot90(view(1, shift=6), -i)))
    with small_map(tmp_path) as held:
        assert not held.locate(tmp_path / "1.png", rerank=1).here  # the thumbnail finds it only upright
        found = held.locate(tmp_path / "1.png", rerank=1, rotations=every)
        assert found.here and found.candidates[0].name == "001.png" and found.rotation == 90
        assert answer_of(json.loads(json.dumps(found.to_json()))).rotation == 90
        assert held.locate(tmp_path / "0.png", rerank=1, rotations=every).rotation == 0
        first = held.locate(tmp_path / "1.png", rotations=every, rerank=0)  # without re-ranking the similarity decides
        assert first.candidates[0].inliers is None and first.rotation == 90
        for wrong in ((), (0, 0), (45,)):
            with pytest.raises(ConfigError, match="each once"):
                held.locate(tmp_path / "0.png", rotations=wrong)
        with pytest.raises(ConfigError, match="cannot be turned"):
            held.locate(held.features(tmp_path / "0.png"), rotations=every)
    capsys.readouterr()
    call(
        [
            "map",
            "locate",
            str(tmp_path / "city"),
            str(tmp_path / "1.png"),
            "--rotations",
            "0,90",
            "--rerank",
            "1",
            "--json",
        ]
    )
    assert json.loads(capsys.readouterr().out)["rotation"] == 90


@pytest.mark.parametrize(
    "given, sentence",
    [
        ({"rotations": {"degrees": [0, 0]}}, "holds a rotation twice"),
        ({"rotations": {"degrees": [45]}}, "0, 90, 180 or 270"),
        ({"rotations": {"degrees": []}}, "at least 1 item"),
        ({"rotations": {"degrees": [0, 90]}, "rerank": {"method": "images"}}, "compares the queries as they are"),
    ],
)
def test_rotations_that_cannot_be_are_refused(given: dict[str, object], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        configured(None, given)


def test_a_given_shortlist_is_of_the_queries_as_they_are(
    small_city: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = [sorted(path.name for path in folder.glob("*.png"))[0] for folder in small_city]
    (tmp_path / "pairs.txt").write_text(f"queries/{names[1]} database/{names[0]}\n")
    with pytest.raises(SystemExit):
        call([
            *("run", "--database", str(small_city[0]), "--queries", str(small_city[1]), "--out", f"{tmp_path}/out"),
            *("--shortlist", f"{tmp_path}/pairs.txt", "--set", "rotations.degrees=[0,90]"),
            *("--set", "local_features.method=rootsift", "--set", "evaluation.recall_at=[1]"),
        ])  # fmt: skip
    assert "are of the queries as they are" in capsys.readouterr().err
