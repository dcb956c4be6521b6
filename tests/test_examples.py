"""The examples run as they stand, on a small city."""

from __future__ import annotations

import csv
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from vpr.demo_city import write_demo_city

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture(scope="module")
def city(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("city") / "city"
    write_demo_city(out, places=6, size=(240, 180), workers=1)
    return out


def run(name: str, *arguments: Path) -> str:
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / name), *map(str, arguments)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_own_data_from_gps(city: Path, tmp_path: Path) -> None:
    with (tmp_path / "points.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["name", "role", "utm_east", "utm_north", "zone"])
        for role, folder in (("database", "database"), ("query", "queries")):
            for path in sorted((city / folder).iterdir()):
                east, north = path.name.split("@")[1:3]
                table.writerow([f"{folder}/{path.name}", role, east, north, "54N"])
    said = run("own_data_from_gps.py", city, tmp_path / "points.csv", tmp_path / "out")
    assert "reranked: recall@1" in said and (tmp_path / "out" / "report.html").exists()


def test_compare_two_methods(city: Path, tmp_path: Path) -> None:
    said = run("compare_two_methods.py", city / "database", city / "queries", tmp_path / "out")
    assert "inliers" in said and "confidence" in said and "recall@1" in said


def test_tutorial(tmp_path: Path) -> None:
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the kernel's own libraries
        notebook = nbformat.read(EXAMPLES / "tutorial.ipynb", as_version=4)
        nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    shown = [output["data"] for output in outputs if "data" in output]
    assert any("data:image/jpeg" in data.get("text/html", "") for data in shown)
    assert (tmp_path / "result" / "report.html").exists()


def test_read_failures(city: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    command = ["run", "--database", str(city / "database"), "--queries", str(city / "queries"), "--out", str(out)]
    subprocess.run(
        [sys.executable, "-m", "vpr", *command, "--set", "rerank.k=5", "--set", "shortlist.k=20"],
        capture_output=True,
        check=True,
    )
    said = run("read_failures.py", out, tmp_path / "failures")
    assert "queries can be answered" in said
    assert len(list((tmp_path / "failures").glob("*.jpg"))) == said.count("was taken for")
