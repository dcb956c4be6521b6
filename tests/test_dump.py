"""`vpr dump megadepth`: the layout that IMP's published training reads, from a scene of the demo city."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_hostile import call
from test_training_matcher import as_megadepth

from vpr.demo_city import write_demo_city

pytest.importorskip("h5py")


@pytest.fixture(scope="module")
def megadepth(tmp_path_factory: pytest.TempPathFactory) -> Path:
    city, out = tmp_path_factory.mktemp("city"), tmp_path_factory.mktemp("megadepth")
    write_demo_city(city / "c", places=2, size=(240, 180), workers=1, with_depth=True)
    return as_megadepth(city / "c", out)


def entry(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = np.load(path, allow_pickle=True).item()
    return found


def dumped(megadepth: Path, out: Path, *more: str) -> Path:
    features = ["--set", "local_features.method=rootsift", "--set", "local_features.longest_side=160"]
    call(["dump", "megadepth", str(megadepth), "--out", str(out), "--min-matches", "8", *features, *more])
    return out


def test_matches_of_the_dump_lie_on_the_lines_of_its_poses(megadepth: Path, tmp_path: Path) -> None:
    out = dumped(megadepth, tmp_path)
    counts = entry(out / "mega_scene_nmatches_sift.npy")
    matches = np.load(out / "nmatches_sift" / "0001.npy")
    assert counts == {"0001": len(matches)} and len(matches) > 0 and matches.min() >= 8
    for number, expected in enumerate(matches):
        pair = entry(out / "matches_sep_sift" / "0001" / f"{number}.npy")
        sides = []
        for side in (1, 2):
            name = Path(pair[f"image_path{side}"])
            assert (megadepth / name).exists() and (megadepth / pair[f"depth_path{side}"]).exists()
            points = entry(out / "keypoints_sift" / "0001" / f"{name.name}_sift.npy")
            assert list(points["image_size"]) == [180, 240, 3]
            assert len(points["keypoints"]) == len(points["scores"]) == len(points["descriptors"])
            sides.append(points["keypoints"][pair[f"matched_ids{side}"]])
        assert len(sides[0]) == expected == len(set(pair["matched_ids2"].tolist()))
        relative = pair["pose2"] @ np.linalg.inv(pair["pose1"])
        x, y, z = relative[:3, 3]
        essential = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]]) @ relative[:3, :3]
        fundamental = np.linalg.inv(pair["intrinsics2"]).T @ essential @ np.linalg.inv(pair["intrinsics1"])
        first, second = (np.pad(each, ((0, 0), (0, 1)), constant_values=1) for each in sides)
        lines = first @ fundamental.T
        away = np.abs((second * lines).sum(1)) / np.linalg.norm(lines[:, :2], axis=1)
        assert np.median(away) < 1.5 and away.max() < 3.5


def test_a_dump_continues_and_names_what_is_wrong(
    megadepth: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = dumped(megadepth, tmp_path / "dump", "--pairs", "1")
    pair = out / "matches_sep_sift" / "0001" / "0.npy"
    before = pair.stat().st_mtime_ns
    dumped(megadepth, out, "--pairs", "1")
    assert pair.stat().st_mtime_ns == before
    (tmp_path / "scenes.txt").write_text("0001\n0007\n")
    with pytest.raises(SystemExit):
        dumped(megadepth, out, "--scenes", str(tmp_path / "scenes.txt"))
    assert "has no scene 0007" in capsys.readouterr().err
