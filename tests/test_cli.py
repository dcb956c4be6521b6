"""The commands, as a user runs them."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import typer
from conftest import textured, write_picture
from test_hostile import call

from vpr.cli import app
from vpr.features.store import GlobalStore

ROOT = Path(__file__).parents[1]

Folders = tuple[Path, Path]


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def without_time(path: Path) -> list[dict[str, object]]:
    return [{key: value for key, value in line.items() if key != "elapsed_ms"} for line in lines(path)]


def run_on(folders: Folders, out: Path, *more: str) -> None:
    call(["run", "--database", str(folders[0]), "--queries", str(folders[1]), "--out", str(out), *more])


def test_run_places_every_query(small_city: Folders, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    run_on(small_city, out)
    said = capsys.readouterr().out
    assert "recall in percent over 5 queries, 1 of them without a positive" in said
    assert str(out / "report.html") in said
    assert (out / "recalls.txt").read_text().splitlines()[0] == "Recall shortlist@1: 0.8000"
    assert (out / "recalls.txt").read_text().splitlines()[6] == "Recall reranked@1: 0.8000"
    best = {str(line["query"]): line for line in lines(out / "predictions.jsonl") if line["rank"] == 1}
    for place in range(4):
        line = best[f"@{500005 + 100 * place}.00@4000003.00@q{place}@.png"]
        assert line["candidate"] == f"@{500000 + 100 * place}.00@4000000.00@db{place}@.png"
        assert line["correct"] and line["distance_m"] == pytest.approx(5.831)
    recalls = json.loads((out / "recalls.json").read_text())
    assert recalls["queries_without_positives"] == 1
    assert recalls["stages"]["reranked"]["over_answerable_queries"]["1"]["value"] == 1.0
    assert "Re-ranking" in (out / "report.html").read_text()


@pytest.mark.parametrize("method", ["vlad", "thumbnail"])
def test_what_a_single_query_takes_is_kept_for_every_stage(method: str, small_city: Folders, tmp_path: Path) -> None:
    run_on(small_city, tmp_path / "out", "--set", f"global_descriptor.method={method}")
    timings = {each["stage"]: each for each in json.loads((tmp_path / "out" / "run.json").read_text())["timings"]}
    single = ["extract, queries", "shortlist", *(["describe"] if method == "vlad" else [])]
    assert all(0 < timings[stage]["median_ms"] <= timings[stage]["slow_ms"] for stage in single)
    assert timings["extract, database"]["median_ms"] is None
    kept = [line["elapsed_ms"] for line in lines(tmp_path / "out" / "predictions.jsonl") if line["rank"] == 1]
    assert len(kept) == 5 and all(kept)  # of re-ranking, query by query


def test_run_again_computes_nothing_and_writes_the_same(small_city: Folders, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run_on(small_city, out)
    shards = {path: path.stat().st_mtime_ns for path in out.rglob("*.safetensors")}
    first = (out / "predictions.jsonl").read_bytes()
    run_on(small_city, out)
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.safetensors")} == shards
    assert (out / "predictions.jsonl").read_bytes() == first


def test_two_runs_give_the_same_bytes(small_city: Folders, tmp_path: Path) -> None:
    for name in ("one", "two"):
        run_on(small_city, tmp_path / name)
    for file in ("recalls.json", "reranked_predictions.txt", "pairs_kapture.txt", "shortlist.jsonl"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()
    one, two = (without_time(tmp_path / name / "predictions.jsonl") for name in ("one", "two"))
    assert one == two


def test_other_rerank_settings_reuse_the_features(small_city: Folders, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run_on(small_city, out)
    stores = {path: path.stat().st_mtime_ns for path in (out / "features").rglob("*.safetensors")}
    run_on(small_city, out, "--set", "rerank.score=inliers", "--set", "verification.model=homography")
    assert {path: path.stat().st_mtime_ns for path in (out / "features").rglob("*.safetensors")} == stores
    assert 'score = "inliers"' in (out / "settings.toml").read_text()


def test_the_settings_a_run_leaves_repeat_it(small_city: Folders, tmp_path: Path) -> None:
    run_on(small_city, tmp_path / "one", "--set", "rerank.k=3", "--set", "matcher.ratio=0.8")
    run_on(small_city, tmp_path / "two", "--config", str(tmp_path / "one" / "settings.toml"))
    assert (tmp_path / "one" / "settings.toml").read_text() == (tmp_path / "two" / "settings.toml").read_text()


def test_without_positions_there_are_predictions_and_no_recall(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for role, count in (("database", 3), ("queries", 1)):
        for i in range(count):
            write_picture(tmp_path / role / f"{i}.png", textured(i))
    run_on((tmp_path / "database", tmp_path / "queries"), tmp_path / "out")
    assert "No ground truth" in capsys.readouterr().out
    assert not (tmp_path / "out" / "recalls.txt").exists()
    assert lines(tmp_path / "out" / "predictions.jsonl")[0]["candidate"] == "0.png"


def test_recall_can_be_declined(small_city: Folders, tmp_path: Path) -> None:
    run_on(small_city, tmp_path / "out", "--no-ground-truth")
    assert not (tmp_path / "out" / "recalls.txt").exists()


def test_retrieval_only(small_city: Folders, tmp_path: Path) -> None:
    """A descriptor of the image and no re-ranking need no local features."""
    out = tmp_path / "out"
    run_on(small_city, out, "--set", "global_descriptor.method=thumbnail", "--set", "rerank.k=0")
    assert not list(out.rglob("local"))
    assert (out / "recalls.txt").read_text().count("Recall") == 6
    assert not (out / "reranked_predictions.txt").exists()


def test_a_thumbnail_shortlist_is_re_ranked(small_city: Folders, tmp_path: Path) -> None:
    run_on(small_city, tmp_path / "out", "--set", "global_descriptor.method=thumbnail")
    assert "Recall reranked@1: 0.8000" in (tmp_path / "out" / "recalls.txt").read_text()


def test_a_short_shortlist_leaves_out_the_long_recalls(small_city: Folders, tmp_path: Path) -> None:
    run_on(small_city, tmp_path / "out", "--set", "shortlist.k=5")
    assert [line.split(":")[0] for line in (tmp_path / "out" / "recalls.txt").read_text().splitlines()] == [
        "Recall shortlist@1",
        "Recall shortlist@5",
        "Recall reranked@1",
        "Recall reranked@5",
    ]


def test_another_convention_by_its_reader(small_city: Folders, tmp_path: Path) -> None:
    source = [f"--source={name}={folder}" for name, folder in zip(("database", "queries"), small_city, strict=True)]
    call(["run", "--out", str(tmp_path / "out"), "--reader", "folders", *source, "--source", "radius_m=3"])
    assert json.loads((tmp_path / "out" / "recalls.json").read_text())["queries_without_positives"] == 5


# --- the commands of Patch-NetVLAD


@pytest.fixture
def patchnetvlad_set(small_city: Folders, tmp_path: Path) -> Path:
    root = tmp_path / "set"
    for role, file in (("database", "index"), ("queries", "query")):
        names = sorted(path.name for path in (root / role).iterdir())
        (tmp_path / f"{file}.txt").write_text("".join(f"./{role}/{name}\n" for name in names))
        positions = np.array([[float(part) for part in name.split("@")[1:3]] for name in names])
        np.save(tmp_path / f"{file}.npy", positions)
    np.savez(
        tmp_path / "gt.npz", utmQ=np.load(tmp_path / "query.npy"), utmDb=np.load(tmp_path / "index.npy"), posDistThr=25
    )
    return tmp_path


def script(name: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, str(ROOT / name), *arguments], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def match_arguments(root: Path) -> list[str]:
    return [
        *("--dataset_root_dir", f"{root}/set", "--query_file_path", f"{root}/query.txt"),
        *("--index_file_path", f"{root}/index.txt", "--query_input_features_dir", f"{root}/f/query"),
        *("--index_input_features_dir", f"{root}/f/index", "--result_save_folder", f"{root}/results"),
    ]


def test_the_scripts_of_patchnetvlad(patchnetvlad_set: Path) -> None:
    root = patchnetvlad_set
    for role in ("index", "query"):
        script(
            "feature_extract.py",
            *("--config_path", "configs/run/rootsift_vlad.toml", "--dataset_file_path", f"{root}/{role}.txt"),
            *("--dataset_root_dir", f"{root}/set", "--output_features_dir", f"{root}/f/{role}", "--nocuda"),
        )
    said = script(
        "feature_match.py",
        *match_arguments(root),
        *("--config_path", "configs/run/rootsift_vlad.toml", "--ground_truth_path", f"{root}/gt.npz", "--nocuda"),
    )
    assert "within 25 m" in said
    text = (root / "results" / "reranked_predictions.txt").read_text()
    assert text.startswith("# kapture format: 1.0\n# query_image, map_image\n")
    query, candidate = text.splitlines()[2].split(", ")
    assert query.startswith(f"{root}/set/./queries/@500005") and candidate.startswith(f"{root}/set/./database/@500000")
    assert len(text.splitlines()) == 2 + 5 * 8
    assert (root / "results" / "recalls.txt").read_text().splitlines()[6] == "Recall reranked@1: 0.8000"


def test_the_radius_may_be_another_and_the_stages_have_other_names(patchnetvlad_set: Path) -> None:
    root = patchnetvlad_set
    for role in ("index", "query"):
        call(
            [
                "feature-extract",
                *("--dataset_file_path", f"{root}/{role}.txt", "--dataset_root_dir", f"{root}/set"),
                *("--output_features_dir", f"{root}/f/{role}", "--config_path", "superpoint_vlad"),
            ]
        )
    named = ("--set", "output.shortlist_name=NetVLAD", "--set", "output.predictions_name=PatchNetVLAD")
    named = (*named, "--config_path", "superpoint_vlad")
    common = ["feature-match", *match_arguments(root), "--ground_truth_path", f"{root}/gt.npz", *named]
    call([*common, "--posDistThr", "2"])
    assert (root / "results" / "PatchNetVLAD_predictions.txt").exists()
    assert "Recall NetVLAD@1: 0.0000\n" in (root / "results" / "recalls.txt").read_text()
    shutil.rmtree(root / "results")
    call([*common, "--group_size", "2"])
    ranked = lines(root / "results" / "shortlist.jsonl")
    names = sorted(path.name for path in (root / "set" / "database").iterdir())
    first = [names.index(str(line["candidate"]).removeprefix("./database/")) // 2 for line in ranked[:4]]
    assert sorted(first) == [0, 1, 2, 3]


# --- the small commands


def test_match_two_draws_what_it_says(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    view = textured(1, 140, 180)
    write_picture(tmp_path / "a.png", view[:120, :160])
    write_picture(tmp_path / "b.png", view[10:130, 12:172])
    write_picture(tmp_path / "c.png", textured(2))
    call(["match-two", f"{tmp_path}/a.png", f"{tmp_path}/b.png", "--out", f"{tmp_path}/new/m.png"])
    said = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert int(said["inliers"].split(";")[0]) > 20
    picture = cv2.imread(str(tmp_path / "new" / "m.png"))
    assert picture.shape[0] == 120 and picture.shape[1] > 320
    call(["match-two", f"{tmp_path}/a.png", f"{tmp_path}/c.png"])
    other = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert float(other["score"].split()[0]) < 0.2 * float(said["score"].split()[0])


@pytest.mark.parametrize("section", ["global_descriptor", "joined.descriptor"])
def test_a_vocabulary_is_fitted_once_and_used_elsewhere(
    small_city: Folders, tmp_path: Path, capsys: pytest.CaptureFixture[str], section: str
) -> None:
    model = tmp_path / "vlad.safetensors"
    few = ("--set", f"{section}.clusters=8", "--set", f"{section}.dim=2")
    config = ("--config", "superpoint_vlad") if section == "global_descriptor" else ()
    call(["fit", "--images", str(small_city[0]), "--features", f"{tmp_path}/f", "--out", str(model), *config, *few])
    assert f"--set {section}.weights={model}" in capsys.readouterr().out
    run_on(small_city, tmp_path / "out", *config, "--set", f"{section}.weights={model}")
    assert not list((tmp_path / "out").rglob("aggregated-*.safetensors"))
    (stored,) = (tmp_path / "out").rglob("queries/aggregated-*/origin.json")
    assert GlobalStore(stored.parent).matrix().shape == (5, 2)


def test_ground_truth_is_made_and_checked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "points.csv").write_text(
        "name,role,lat,lon\na.jpg,database,52.0,13.0\nb.jpg,query,52.0001,13.0\nc.jpg,query,53,13\n"
    )
    call(["gt", "make", f"{tmp_path}/points.csv", "--out", f"{tmp_path}/mine.npz"])
    assert "1 database images, 2 queries, zone 33N" in capsys.readouterr().out
    call(["gt", "check", f"{tmp_path}/mine.npz"])
    assert "1" in capsys.readouterr().out
    assert (tmp_path / "mine_imageNames_query.txt").read_text() == "b.jpg\nc.jpg\n"


@pytest.mark.parametrize(
    "arguments",
    [
        ["config", "show", "--config", "rootsift_vlad"],
        ["config", "list"],
        ["datasets", "list"],
        ["datasets", "readers"],
        ["datasets", "show", "pitts30k"],
    ],
    ids=" ".join,
)
def test_commands_that_only_tell(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    call(arguments)
    assert len(capsys.readouterr().out) > 40


def commands(group: Any, prefix: str = "") -> Iterator[str]:
    """Every command and group below a group, as a user writes it."""
    for name, command in group.commands.items():
        yield f"{prefix}{name}"
        if hasattr(command, "commands"):
            yield from commands(command, f"{prefix}{name} ")


def test_every_command_has_help_that_says_what_it_does(capsys: pytest.CaptureFixture[str]) -> None:
    found = list(commands(typer.main.get_group(app)))
    assert {"run", "train matcher", "evaluate", "models check", "config show"} < set(found)
    for command in found:
        call([*command.split(), "--help"])
        said = capsys.readouterr().out
        assert f"Usage: vpr {command}" in " ".join(said.split()) and "--help" in said
        described = [line.strip() for line in said.splitlines() if line.strip() and not line.startswith("╭")]
        assert len(described[1]) > 20, f"vpr {command} --help does not say what it does"


@pytest.mark.parametrize("more", [[], ["--no-ground-truth"]])
def test_one_query_without_a_position_is_answered_with_positions(
    more: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    database = tmp_path / "paris"
    for place in range(4):
        name = f"@{448251.8 + 100 * place:.1f}@5411932.7@31@N@{place}@.png"
        write_picture(database / name, textured(place, 140, 180)[:120, :160])
    photo = write_picture(tmp_path / "photo.png", textured(2, 140, 180)[10:130, 12:172])
    run_on((database, photo), tmp_path / "out", *more)
    said = capsys.readouterr().out
    assert "No ground truth, so no recall." in said
    assert "UTM 31N 448451.8 5411932.7, latitude 48.858217, longitude 2.297226" in said
    best = lines(tmp_path / "out" / "predictions.jsonl")[0]
    assert (best["query"], best["correct"], best["zone"]) == ("photo.png", None, "31N")
    assert (best["east_m"], best["north_m"]) == (448451.8, 5411932.7)
    assert (best["latitude"], best["longitude"]) == pytest.approx((48.858217, 2.297226), abs=1e-6)
    assert not (tmp_path / "out" / "recalls.txt").exists()
