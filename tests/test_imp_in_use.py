"""IMP and EIMP as matchers of a run, of a ranking and of two images; any number of iterations from one file."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import torch
from conftest import textured, write_picture
from safetensors.torch import save_file
from test_hostile import call

from vpr.matchers.imp_network import ImpNetwork
from vpr.training.initial import start_as_nearest


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights that match RootSIFT by its cosines, whatever the iteration."""
    torch.manual_seed(0)
    network = ImpNetwork((8, 16, 128), 6)
    start_as_nearest(network)
    path = tmp_path_factory.mktemp("imp") / "imp.safetensors"
    save_file(network.state_dict(), path)
    return path


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A query, and the same place from the side among others."""
    root = tmp_path_factory.mktemp("places")
    wide = textured(1, 120, 200)
    write_picture(root / "queries" / "q.png", wide[:, :180])
    write_picture(root / "database" / "same.png", wide[:, 20:])
    for seed in (2, 3):
        write_picture(root / "database" / f"other{seed}.png", textured(seed, 120, 180))
    return root


def chosen(method: str, weights: Path, *more: str) -> list[str]:
    settings = ["local_features.method=rootsift", f"matcher.method={method}", f"matcher.weights={weights}", *more]
    return [word for each in settings for word in ("--set", each)]


@pytest.mark.parametrize(
    ("method", "iterations"), [("imp", 1), ("imp", 6), ("eimp", 6), ("imp_iterative", 6), ("eimp_iterative", 6)]
)
def test_a_query_among_many(weights: Path, places: Path, tmp_path: Path, method: str, iterations: int) -> None:
    query = ["rank", str(places / "queries" / "q.png"), "--among", str(places / "database"), "--out", str(tmp_path)]
    call([*query, *chosen(method, weights, f"matcher.iterations={iterations}")])
    rows = list(csv.DictReader((tmp_path / "ranking_score.csv").read_text().splitlines()))
    scores = [float(row["score"]) for row in rows]
    assert rows[0]["image"] == "same.png" and len(rows) == 3 and scores[0] > 3 * max(scores[1], 1)


@pytest.mark.parametrize("method", ["imp", "eimp"])
def test_a_run_reranks(weights: Path, places: Path, tmp_path: Path, method: str) -> None:
    folders = ["--database", str(places / "database"), "--queries", str(places / "queries"), "--out", str(tmp_path)]
    call(["run", *folders, *chosen(method, weights, "rerank.k=3", "global_descriptor.method=thumbnail")])
    lines = [json.loads(line) for line in (tmp_path / "predictions.jsonl").read_text().splitlines()]
    assert lines[0]["candidate"] == "same.png"
    assert lines[0]["inliers"] > 50 > 3 * max(line["inliers"] for line in lines[1:])


def test_a_benchmark_reranks_by_imp_and_eimp(weights: Path, places: Path, tmp_path: Path) -> None:
    """Names carry the positions; the thumbnail's shortlist alone is compared with both re-rankers."""
    for folder, name, x in (
        ("queries", "q", 0),
        ("database", "same", 0),
        *(("database", f"other{i}", 90 * i) for i in (2, 3)),
    ):
        image = (places / folder / f"{name}.png").read_bytes()
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / f"@{500000 + x}.00@4000000.00@{name}@.png").write_bytes(image)
    (tmp_path / "town.toml").write_text(
        f'reader = "folders"\n[source]\ndatabase = "{tmp_path}/database"\nqueries = "{tmp_path}/queries"\n'
    )
    for method in ("imp", "eimp"):
        (tmp_path / f"{method}.toml").write_text(
            '[local_features]\nmethod = "rootsift"\n[global_descriptor]\nmethod = "thumbnail"\n[rerank]\nk = 3\n'
            f'[matcher]\nmethod = "{method}"\nweights = "{weights}"\niterations = 3\n'
        )
    methods = [str(tmp_path / f"{method}.toml") for method in ("imp", "eimp")]
    call(
        ["benchmark", "--datasets", str(tmp_path / "town.toml"), "--methods", *methods, "--out", str(tmp_path / "out")]
    )
    rows = list(csv.DictReader((tmp_path / "out" / "benchmark.csv").read_text().splitlines()))
    reranked = [row for row in rows if row["stage"] == "reranked"]
    assert [row["method"] for row in reranked] == ["imp", "eimp"]
    assert [float(row["recall@1"]) for row in reranked] == [1, 1]


def test_two_images(weights: Path, places: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call(
        ["match-two", str(places / "queries" / "q.png"), str(places / "database" / "same.png"), *chosen("imp", weights)]
    )
    inliers = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("inliers"))
    assert int(inliers.split()[1].rstrip(";")) > 50


def test_more_iterations_than_the_weights_have_are_refused(
    weights: Path, places: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = [str(places / "queries" / "q.png"), str(places / "database" / "same.png")]
    with pytest.raises(SystemExit):
        call(["match-two", *images, *chosen("imp", weights, "matcher.iterations=7")])
    assert "these weights have 6" in capsys.readouterr().err
