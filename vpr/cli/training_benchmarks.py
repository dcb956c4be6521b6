"""``vpr train matcher --run-benchmarks``: geometry benchmarks of the weights after each validation."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vpr.cli.common import command_line, settings_of
from vpr.core import ConfigError

PROTOCOLS = {"hpatches": "glue-factory", "homography-folder": "plain"}
POSES = ("megadepth1500", "scannet1500", "yfcc", "scannet", "pose-folder")


@dataclass(frozen=True)
class NamedBenchmark:
    """A benchmark of `vpr evaluate`."""

    name: str
    path: Path

    @staticmethod
    def of(text: str) -> NamedBenchmark:
        """Of ``NAME=PATH``. Raises ConfigError for an unknown name or a path that is not there."""
        name, separator, path = text.partition("=")
        if not separator or name not in (*PROTOCOLS, *POSES):
            known = ", ".join((*PROTOCOLS, *POSES))
            raise ConfigError(f"--run-benchmarks {text}: expected NAME=PATH with a name of {known}")
        if not Path(path).exists():
            raise ConfigError(f"--run-benchmarks {text}: {path} does not exist")
        return NamedBenchmark(name, Path(path))


def benchmarks_of(
    chosen: Sequence[NamedBenchmark], task: Any, out: Path, first: int | None
) -> Callable[[int, Path], dict[str, float]]:
    """What runs these benchmarks on weights of a matcher's training, whose settings ``task`` are."""
    if task.method != "matcher":
        raise ConfigError(f"--run-benchmarks is for the training of a matcher, not of task.method = {task.method!r}")
    features = [f"local_features.method={task.features.method}"]
    if getattr(task.features, "weights", ""):
        features.append(f"local_features.weights={task.features.weights}")

    def run(step: int, weights: Path) -> dict[str, float]:
        overrides = [*features, f"matcher.method={task.network}", f"matcher.weights={weights}"]
        figures: dict[str, float] = {}
        for each in chosen:
            folder = out / "benchmarks" / str(step) / each.name
            shutil.rmtree(folder, ignore_errors=True)  # of a run that was interrupted at this step
            figures |= {f"{each.name} {key}": value for key, value in _figures(each, folder, overrides, first).items()}
        return figures

    return run


def _figures(chosen: NamedBenchmark, out: Path, overrides: Sequence[str], first: int | None) -> dict[str, float]:
    """The areas under the curves, of all parts, of every estimator."""
    from vpr.cli.evaluate import homography_pairs, pose_pairs
    from vpr.geometry_benchmark import SUMMARY, Options, run_homographies, run_poses
    from vpr.geometry_examples import Examples
    from vpr.runtime.files import read_json

    options = Options(
        out, lambda protocol: settings_of(None, [*protocol, *overrides]), command_line(), examples=Examples(0)
    )
    if chosen.name in PROTOCOLS:
        protocol = PROTOCOLS[chosen.name]
        run_homographies(chosen.name, homography_pairs(chosen.name, chosen.path, protocol)[:first], protocol, options)
    else:
        run_poses(chosen.name, pose_pairs(chosen.name, chosen.path, None, None)[:first], options)
    tables = read_json(out / SUMMARY)["tables"]
    rows = [row for row in tables.get("poses", tables.get("homographies", [])) if row["part"] == "all"]
    return {
        f"{row['estimator']} {key}": value
        for row in rows
        for key, value in row.items()
        if key.startswith("auc") and value is not None
    }
