"""Recall of a configuration on data sets in the ground_truth.csv layout, kept as one JSON file and a table.

    python benchmarks/recall.py DATA --out benchmarks/results/NAME.json [--config NAME] [--set ...] [--work DIR]

DATA is a folder of data sets, each with database/, queries/ and ground_truth.csv. Queries whose names begin with a
condition (day_left_000.jpg) are also judged by condition. Features stay in the work folder and are reused.
"""

from __future__ import annotations

import argparse
import re
import shlex
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from vpr import pipeline
from vpr.build import build
from vpr.cli.common import settings_of
from vpr.config import dump
from vpr.core import Dataset, Evidence, ImageSet, Ranking, Rows
from vpr.datasets import read_pair
from vpr.evaluation.comparison import Summary, summarise
from vpr.features.feature_set import FeatureFolders
from vpr.runtime import device as machine
from vpr.runtime.files import write_json
from vpr.runtime.timing import Clock

CONDITION = re.compile(r"^([a-z]+(?:_[a-z]+)*)_\d")


def main() -> None:
    arguments = parse()
    settings = settings_of(arguments.config, arguments.overrides)
    engine = build(settings)
    results = []
    for root in sorted(path.parent for path in arguments.data.glob("*/ground_truth.csv")):
        if arguments.only and root.name not in arguments.only:
            continue
        dataset = read_pair(root / "database", root / "queries", settings.evaluation.radius_m)
        if arguments.most_queries and len(dataset.queries) > arguments.most_queries:
            evenly = np.linspace(0, len(dataset.queries) - 1, arguments.most_queries).round().astype(np.int64)
            dataset = subset(dataset, evenly)
        work = arguments.work / root.name
        clock = Clock()
        features = pipeline.extract(dataset, engine, lambda role, work=work: FeatureFolders.under(work / role), clock)
        outcome = pipeline.match(dataset, features, engine, work=work / "work", clock=clock)
        ks = pipeline.reached(settings, dataset)
        for condition, rows in conditions(dataset).items():
            summary = summarise(subset(dataset, rows), {n: part(r, rows) for n, r in outcome.stages.items()}, ks)
            results.append(record(root.name, condition, summary))
            print(line(results[-1]), flush=True)
        computed = [each for each in clock.timings if each.seconds is not None]
        results[-1]["seconds"] = {each.stage: round(each.seconds, 2) for each in computed}
        results[-1]["images"] = [len(dataset.database), len(dataset.queries)]
        results[-1]["bytes_per_image"] = pipeline.bytes_per_image(features)
    about = machine.facts(shlex.join(["python", *sys.argv]), machine.device_of(settings.machine.device))
    write_json(arguments.out, {**about, "settings": dump(settings), "results": results})
    print(arguments.out)


def parse() -> argparse.Namespace:
    parser = options(__doc__)
    parser.add_argument("--only", nargs="*", help="names of data sets, instead of all")
    parser.add_argument("--most-queries", type=int, default=0, help="of a data set, evenly spread over it; 0 for all")
    return parser.parse_args()


def options(text: str | None) -> argparse.ArgumentParser:
    """What every benchmark of a configuration on data takes."""
    parser = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--config")
    parser.add_argument("--set", dest="overrides", action="append", default=[])
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "vpr-benchmark")
    return parser


def conditions(dataset: Dataset) -> dict[str, Rows]:
    """All queries, and those of each condition if the names tell of more than one."""
    found: dict[str, list[int]] = {}
    for row, name in enumerate(dataset.queries.names):
        match = CONDITION.match(name)
        found.setdefault(match[1] if match else "", []).append(row)
    named = {name: np.array(rows) for name, rows in sorted(found.items())} if len(found) > 1 and "" not in found else {}
    return {"all": np.arange(len(dataset.queries)), **named}


def subset(dataset: Dataset, rows: Rows) -> Dataset:
    queries = dataset.queries
    chosen = ImageSet(queries.root, tuple(queries.names[row] for row in rows))
    assert dataset.positives is not None
    return replace(dataset, queries=chosen, positives=tuple(dataset.positives[row] for row in rows))


def part(ranking: Ranking, rows: Rows) -> Ranking:
    evidence = ranking.evidence
    chosen = None if evidence is None else Evidence(*(array[rows] for array in vars(evidence).values()))
    return Ranking(ranking.rows[rows], ranking.scores[rows], chosen)


def record(name: str, condition: str, summary: Summary) -> dict[str, Any]:
    table = next(iter(summary.recalls.values()))
    return {
        "dataset": name,
        "queries": condition,
        "count": table.queries,
        "without_positives": table.unanswerable,
        "recall": {
            stage: {str(k): round(estimate.value, 4) for k, estimate in zip(t.ks, t.over_all, strict=True)}
            for stage, t in summary.recalls.items()
        },
        "interval_at_1": {
            stage: [round(t.over_all[0].low, 4), round(t.over_all[0].high, 4)] for stage, t in summary.recalls.items()
        },
        "ceiling": round(summary.ceiling, 4),
        "helped_harmed_at_1": [len(summary.changes[0].helped), len(summary.changes[0].harmed)]
        if summary.changes
        else None,
    }


def line(result: dict[str, Any]) -> str:
    stages = "   ".join(
        f"{stage} " + "/".join(f"{100 * result['recall'][stage][k]:.1f}" for k in ("1", "5", "10"))
        for stage in result["recall"]
    )
    return f"{result['dataset']:18} {result['queries']:12} {result['count']:4} queries   {stages}"


if __name__ == "__main__":
    main()
