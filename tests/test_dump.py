"""`vpr dump megadepth`: the layout that IMP's published training reads, and training from it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from geometry_sets import write_homography_folder
from safetensors.torch import load_file, save_file
from test_hostile import call
from test_training_matcher import as_megadepth

from vpr.core import DataError
from vpr.demo_city import write_demo_city
from vpr.exchange.imp_dump import DumpFiles, read_features, read_pair
from vpr.matchers import MATCHERS
from vpr.training.dumped_pairs import DumpedPairs, DumpSettings
from vpr.training.randomness import randomness
from vpr.weights import record_of

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
    assert counts == entry(out / "nmatches_sift" / "0001_sift.npy") and counts["0001"] > 0
    for number in range(counts["0001"]):
        pair = entry(out / "matches_sep_sift" / "0001" / f"{number}.npy")
        sides = []
        for side in (1, 2):
            name = Path(pair[f"image_path{side}"])
            assert (megadepth / name).exists() and (megadepth / pair[f"depth_path{side}"]).exists()
            points = entry(out / "keypoints_sift" / "0001" / f"{name.name}_sift.npy")
            assert list(points["image_size"]) == [180, 240, 3]
            assert len(points["keypoints"]) == len(points["scores"]) == len(points["descriptors"])
            sides.append(points["keypoints"][pair[f"matched_ids{side}"]])
        assert 8 <= len(sides[0]) == len(set(pair["matched_ids2"].tolist()))
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
    (tmp_path / "scenes.txt").write_text("0007\n")
    for more, said in (
        (("--scenes", str(tmp_path / "scenes.txt")), "names none of the 1 scenes"),
        (("--scenes", "train_scenes_clean"), "lists are not part of vpr"),
        (("--set", "local_features.method=sift"), "choose those local features, or another folder"),
    ):
        with pytest.raises(SystemExit):
            dumped(megadepth, out, *more)
        assert said in capsys.readouterr().err


# --- training from it

SMALL = {
    "task.features.method": "rootsift",
    "task.features.longest_side": 160,
    "task.dump.kind": "sift",
    "task.dump.held_out": 0.4,
    "task.dump.matches": [8, 40],
    "task.points": 60,
    "task.encoder": [16, 32],
    "task.layers": 2,
    "task.validation_pairs": 2,
    "train.batch_size": 2,
    "train.learning_rate": 1e-3,
    "train.warmup_steps": 2,
    "train.schedule": "constant",
    "train.overfit": 1,
    "train.log_every": 1,
    "train.precision": "fp32",
    "train.workers": 1,
}


@pytest.fixture(scope="module")
def dump(megadepth: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return dumped(megadepth, tmp_path_factory.mktemp("dump"))


def trained(dump: Path, out: Path, *more: str, **changed: Any) -> Path:
    values = SMALL | {key.replace("__", "."): value for key, value in changed.items()}
    sets = [part for key, value in values.items() for part in ("--set", f"{key}={value}")]
    call(["train", "matcher", "--method", "imp", "--dump", str(dump), "--out", str(out), *sets, *more])
    return out / "best.safetensors"


def losses(out: Path) -> list[float]:
    header, *lines = (out / "train.csv").read_text().splitlines()
    return [float(line.split(",")[header.split(",").index("loss")]) for line in lines]


def test_imp_learns_from_a_dump_and_continues(dump: Path, tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    best = trained(dump, whole, train__steps=12)
    for steps in (5, 12):
        trained(dump, parts, train__steps=steps)
    assert losses(parts) == losses(whole)
    assert losses(whole)[-1] < 0.9 * losses(whole)[0]
    built = MATCHERS["imp"].build(MATCHERS["imp"].settings(weights=str(best)), torch.device("cpu"))
    source = DumpedPairs(DumpSettings(folder=dump, kind="sift", held_out=0.4), 60)
    part = source.draw(2, randomness(0), held=True)
    assert len(built.match(part.first[0], [part.second[0]])) == 1
    record = record_of(str(best))
    assert record is not None and record.trained_for is not None and record.trained_for.method == "rootsift"


def test_eimp_is_trained_by_name(dump: Path, tmp_path: Path) -> None:
    pooling = {"task__pooling__min_keypoints": 16, "task__pooling__threshold": 0.5, "task__pose_weight": 0.1}
    best = trained(dump, tmp_path, "--method", "eimp", train__steps=4, task__layers=5, **pooling)
    record = record_of(str(best))
    assert record is not None and set(record.loads) == {"imp", "imp_iterative", "eimp", "eimp_iterative"}
    MATCHERS["eimp"].build(MATCHERS["eimp"].settings(weights=str(best)), torch.device("cpu"))
    values = (tmp_path / "train.csv").read_text().splitlines()
    assert "pose" in values[0] and np.isfinite([float(each) for each in values[-1].split(",")]).all()


def test_weights_are_kept_averaged_and_benchmarked(
    dump: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_homography_folder(tmp_path / "pairs", 2, (160, 120))
    out = tmp_path / "run"
    benchmark = ["--run-benchmarks", f"homography-folder={tmp_path / 'pairs'}", "--benchmark-pairs", "1"]
    trained(
        dump, out, *benchmark, train__steps=4, train__validate_every=2, train__keep_every=2, train__precision="fp32"
    )
    header, *lines = (out / "benchmark.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in lines] == ["2", "4"] and "homography-folder opencv 3px auc_5px" in header
    assert all(0 <= float(each) <= 1 for line in lines for each in line.split(",")[2:])
    assert not (out / "measured.safetensors").exists()
    kept = [out / f"weights-{step}.safetensors" for step in (2, 4)]
    call(["models", "average", *map(str, kept), "--out", str(tmp_path / "mean.safetensors")])
    one, other, mean = (load_file(path) for path in (*kept, tmp_path / "mean.safetensors"))
    for key, value in mean.items():
        torch.testing.assert_close(value, (one[key].float() + other[key].float()) / 2, rtol=0, atol=1e-6)
    assert any(not torch.equal(one[key], other[key]) for key in one)
    assert record_of(str(tmp_path / "mean.safetensors")) == record_of(str(kept[0]))
    save_file({"x": torch.zeros(2)}, tmp_path / "other.safetensors")
    for files, said in (
        ((kept[0],), "two weights or more"),
        ((kept[0], tmp_path / "other.safetensors"), "in one of them"),
    ):
        with pytest.raises(SystemExit):
            call(["models", "average", *map(str, files), "--out", str(tmp_path / "mean.safetensors")])
        assert said in capsys.readouterr().err
    for text, said in (("pose-folder=nowhere", "nowhere does not exist"), ("x=y", "expected NAME=PATH")):
        with pytest.raises(SystemExit):
            trained(dump, out, "--run-benchmarks", text)
        assert said in capsys.readouterr().err


def test_a_drawn_pair_has_the_matches_of_the_dump(dump: Path) -> None:
    """Whatever the order and the number: partners are those of the dump, and the others have none there."""
    source = DumpedPairs(DumpSettings(folder=dump, kind="sift", held_out=0.4, matches=(10, 20)), 50)
    part = source.draw(6, randomness(3), held=False)
    files = DumpFiles(dump, "sift")
    known = set()
    for pairs in source.pairs[False].values():
        for scene, number in pairs:
            pair = read_pair(files, scene, number)
            one, other = (read_features(files.keypoints(scene, image)).keypoints for image in pair.images)
            known |= {(*one[row].tolist(), *other[column].tolist()) for row, column in pair.matches}
    for first, second, rows, columns in zip(part.first, part.second, part.truth.first, part.truth.second, strict=True):
        assert len(first) == len(second) == 50
        matched = (rows >= 0).nonzero()[:, 0]
        assert 8 <= len(matched) <= 20 and ((rows >= 0).sum() == (columns >= 0).sum())
        for row in matched.tolist():
            column = int(rows[row])
            assert int(columns[column]) == row
            assert (*first.keypoints[row].tolist(), *second.keypoints[column].tolist()) in known
    again = source.draw(6, randomness(3), held=False)
    assert all(torch.equal(one, other) for one, other in zip(part.truth, again.truth, strict=True))


def test_lists_of_scenes_divide_a_dump(dump: Path, tmp_path: Path) -> None:
    copy = tmp_path / "dump"
    shutil.copytree(dump, copy)
    count = entry(copy / "mega_scene_nmatches_sift.npy")["0001"]
    for folder in ("keypoints_sift", "matches_sep_sift"):
        shutil.copytree(copy / folder / "0001", copy / folder / "0002")
    np.save(copy / "mega_scene_nmatches_sift.npy", {"0001": count, "0002": count, "0003": 0})  # type: ignore[arg-type]
    (copy / "scene_lists").mkdir()
    (copy / "scene_lists" / "train_scenes_clean.txt").write_text("0001\n0004\n")
    (tmp_path / "valid.txt").write_text("0002\n")
    lists = {"scenes": "train_scenes_clean", "valid_scenes": str(tmp_path / "valid.txt")}
    source = DumpedPairs(DumpSettings(folder=copy, kind="sift", **lists), 60)
    assert [len(source.pairs[held][name]) for held, name in ((False, "0001"), (True, "0002"))] == [count, count]
    assert list(source.pairs[False]) == ["0001"] and list(source.pairs[True]) == ["0002"]


class Evil:
    def __reduce__(self) -> Any:
        return print, ("run",)


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        ({}, "has no 'image_path1'"),
        ({"matched_ids1": [0, 0]}, "matches a keypoint twice"),
        ({"matched_ids1": [0]}, "1 and 2 matched keypoints"),
        ({"matched_ids2": [5, 10**7]}, "matches keypoints that its images do not have"),
        ({"matched_ids2": ["a", "b"]}, "no list of row numbers"),
        ({"image_path1": 7}, "not the path of an image"),
        ({"image_path1": Evil()}, r"it would run builtins.print"),
        ([1, 2], "holds"),
        (b"cut off", "not a NumPy file with a dictionary"),
    ],
)
def test_damaged_pairs_of_a_dump_are_told(dump: Path, tmp_path: Path, broken: Any, said: str) -> None:
    copy = tmp_path / "dump"
    shutil.copytree(dump, copy)
    for path in (copy / "matches_sep_sift" / "0001").iterdir():
        whole = entry(path) | {"matched_ids1": [0, 1], "matched_ids2": [0, 1]}
        if isinstance(broken, bytes):
            path.write_bytes(broken)
        else:
            np.save(path, {**whole, **broken} if isinstance(broken, dict) and broken else broken)  # type: ignore[arg-type]
    source = DumpedPairs(DumpSettings(folder=copy, kind="sift", held_out=0.4), 60)
    with pytest.raises(DataError, match=said):
        source.draw(1, randomness(0), held=False)


def test_a_dump_that_does_not_fit_is_refused(dump: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for changed, said in (
        ({"task__dump__kind": "spp"}, "mega_scene_nmatches_spp.npy: no such file"),
        ({"task__features__method": "sift"}, "choose those local features, or another folder"),
        ({"task__points": 5000}, "lower task.points"),
        ({"task__pool": 5}, "leave out pool"),
        ({"task__dump__valid_scenes": "valid_scenes_clean"}, "no list of scenes 'valid_scenes_clean'"),
    ):
        with pytest.raises(SystemExit):
            trained(dump, tmp_path / said[:9], train__steps=1, **changed)
        assert said in " ".join(capsys.readouterr().err.split())
