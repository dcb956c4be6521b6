"""Data flows one way: a package imports only from those before it."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ORDER = (
    "core",
    "runtime",
    "toml_text",
    "config",
    "images",
    "categories",  # classes of pixels: the demo city draws them, readers and segmentation use them
    "category_files",
    "video",  # frames as images
    "positives",
    "demo_city",
    "datasets",
    "exchange",  # files of other programs: plain arrays and names
    "weights",
    "local_features",
    "global_descriptors",
    "relative_pose",  # of two cameras: IMP estimates it between its iterations, the benchmarks measure it
    "matchers",
    "features",
    "index",
    "rerank",
    "evaluation",
    "geometry",
    "results",
    "report",
    "settings",
    "build",
    "descriptors",
    "rotations",  # which features of a query are searched and compared
    "given_features",  # in the place of those that a run would extract
    "pipeline",
    "maps",  # built on build, features, index and rerank
    "serve",  # a map over HTTP
    "pairs",  # built on build, features, rerank and report
    "benchmark",
    "cluster",  # units of maps, runs and benchmarks, computed by other machines
    "image_exports",  # npz of features: built on local_features, matchers, geometry and report
    "geometry_examples",
    "geometry_benchmark",
    "segmentation_benchmark",  # built on local_features, evaluation and report
    "inspection",  # built on build, report and geometry_benchmark
    "training",
    "depth_benchmark",  # average precision by the true partners of training
    "cli",
    "api",
    "__main__",
)


def layer_of(module: str) -> str:
    return module.split(".")[1] if module.count(".") else ""


def imports_of(path: Path) -> set[str]:
    """Every module of vpr that a file imports, wherever in the file."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= (
                {node.module}
                if node.module != "vpr"
                else {f"vpr.{alias.name}" for alias in node.names if alias.name[0] != "_"}
            )
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return {name for name in found if name.startswith("vpr.")}


@pytest.mark.parametrize("path", sorted((ROOT / "vpr").rglob("*.py")), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_only_from_above(path: Path) -> None:
    own = path.relative_to(ROOT / "vpr").parts[0].removesuffix(".py")
    if own == "__init__":
        return
    assert own in ORDER, f"say where vpr/{own} stands in the order"
    below = {name for name in imports_of(path) if ORDER.index(layer_of(name)) > ORDER.index(own)}
    assert not below


@pytest.mark.parametrize("path", ["feature_extract.py", "feature_match.py", "train.py"])
def test_top_level_scripts_hold_no_logic(path: str) -> None:
    assert len(ast.parse((ROOT / path).read_text()).body) == 2


def test_every_folder_of_modules_is_a_package() -> None:
    """Else it works in the checkout, and is missing where vpr is installed."""
    folders = {path.parent for path in (ROOT / "vpr").rglob("*.py")}
    assert [folder.name for folder in folders if not (folder / "__init__.py").exists()] == []


def test_importing_the_command_line_is_quick() -> None:
    """--help must not wait for torch, OpenCV, FAISS or scikit-learn."""
    code = "import sys, vpr.cli; print([m for m in ('torch', 'cv2', 'faiss', 'sklearn', 'scipy') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def public_classes(root: Path) -> dict[str, list[str]]:
    """Files below ``root`` that define each public class, by its name."""
    files: dict[str, list[str]] = {}
    for path in sorted(root.rglob("*.py")):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                files.setdefault(node.name, []).append(str(path.relative_to(root)))
    return files


def test_a_public_class_name_has_one_meaning() -> None:
    """Except ``Settings``: each method's are named together with its module, as in ``superglue.Settings``."""
    twice = {name: files for name, files in public_classes(ROOT / "vpr").items() if len(files) > 1}
    twice.pop("Settings")
    assert twice == {}


def test_a_class_name_with_two_meanings_is_found(tmp_path: Path) -> None:
    for name in ("one.py", "two.py"):
        (tmp_path / name).write_text("class Pair:\n    pass\n\n\nclass _Own:\n    pass\n")
    assert public_classes(tmp_path) == {"Pair": ["one.py", "two.py"]}
