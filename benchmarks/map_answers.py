"""How far the answers of a map can be believed: probability against truth, and error in metres.

    python benchmarks/map_answers.py DATA [DATA ...] --out benchmarks/results/NAME.json [--fit ORIGIN] [--work DIR]

DATA is a data set with database/ and queries/ and either positions in the names or a ground_truth.csv. A map is made of
the database, and every query is located. With --fit the parameters of the probability are fitted on the queries of all
and printed; they must then be ones that nothing is measured on.
"""

from __future__ import annotations

import argparse
import shlex
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from vpr.config import config_path, load
from vpr.core import Dataset, ImageError
from vpr.datasets import read_pair
from vpr.datasets.placed import of_image_set
from vpr.evaluation.calibration import reliability
from vpr.maps import Answer, Map
from vpr.maps.answers import fused
from vpr.maps.probability import fit_probability
from vpr.runtime import device as machine
from vpr.runtime.files import write_json
from vpr.runtime.progress import Progress
from vpr.settings import Settings

RADII_M = (5.0, 10.0, 25.0)  # candidates that agree with the first, whose positions are averaged


def main() -> None:
    arguments = parse()
    settings = load(Settings, config_path("map"), arguments.overrides)
    results, firsts, right = [], [], []
    for data in arguments.data:
        dataset = read_pair(data / "database", data / "queries", settings.evaluation.radius_m)
        answers = answers_of(dataset, settings, arguments.work / f"map-{data.name}", arguments.profile)
        results.append({"dataset": dataset.name, "profile": arguments.profile, **judge(dataset, answers)})
        for answer, good in zip(answers, right_of(dataset, answers).tolist(), strict=True):
            if answer and answer.candidates:
                firsts.append(answer.candidates[0])
                right.append(good)
        print("\n".join(f"{key}: {value}" for key, value in results[-1].items()), flush=True)
    names = [f"DATA/{data.name}" for data in arguments.data]
    about = machine.facts(
        shlex.join(["python", "benchmarks/map_answers.py", *names]), machine.device_of(settings.machine.device)
    )
    if arguments.fit:
        about["fitted"] = asdict(fit_probability(firsts, np.array(right, dtype=bool), arguments.fit))
        print(about["fitted"])
    write_json(arguments.out, {**about, "datasets": results})


def answers_of(dataset: Dataset, settings: Settings, folder: Path, profile: str) -> list[Answer | None]:
    """The answers to all queries of a map of the database, which is made where it is not there."""
    held = Map.begin(folder.with_name(f"{folder.name}-{profile}"), settings, profile)
    held.add_placed(of_image_set(dataset.database), dataset.database.root)
    rows = Progress("locate", len(dataset.queries), "query").over(range(len(dataset.queries)))
    return [located(held, dataset, row) for row in rows]


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--fit", metavar="ORIGIN", help="what the queries are, for the record")
    parser.add_argument("--profile", default="default")
    parser.add_argument("--set", dest="overrides", action="append", default=[])
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "vpr-benchmark")
    return parser.parse_args()


def located(held: Map, dataset: Dataset, row: int) -> Answer | None:
    try:
        return held.locate(dataset.queries.path(row), k=10)
    except ImageError:
        return None


def right_of(dataset: Dataset, answers: list[Answer | None]) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """(Q,) whether the first candidate is a positive."""
    assert dataset.positives is not None
    names = dataset.database.names
    positives = [{names[row] for row in rows.tolist()} for rows in dataset.positives]
    return np.array(
        [
            bool(each and each.candidates and each.candidates[0].name in good)
            for each, good in zip(answers, positives, strict=True)
        ]
    )


def judge(dataset: Dataset, answers: list[Answer | None]) -> dict[str, Any]:
    """Recall, calibration and errors."""
    right = right_of(dataset, answers)
    assert dataset.positives is not None
    answerable = np.array([len(rows) > 0 for rows in dataset.positives])
    here = np.array([bool(each and each.here) for each in answers])
    result: dict[str, Any] = {
        "queries": len(answers),
        "of_no_place": int((~answerable).sum()),
        "recall_at_1": round(float(right.mean()), 4),
        "said_here": int(here.sum()),
        "said_here_and_right": int((here & right).sum()),
        "of_no_place_said_here": int((here & ~answerable).sum()),
    }
    probability = np.array(
        [np.nan if each is None or each.probability is None else each.probability for each in answers]
    )
    if np.isfinite(probability).all():
        found = reliability(probability, right)
        result["brier"], result["calibration_error"] = round(found.brier, 4), round(found.calibration_error, 4)
        result["curve"] = [[round(b.promised, 3), round(b.kept, 3), b.queries] for b in found.bins]
    if dataset.queries.positions is not None and dataset.database.positions is not None:
        result["error_m"] = errors(dataset, answers, here)
    result["answer_ms"] = times([answer for answer in answers if answer])
    return result


def times(answers: list[Answer]) -> dict[str, dict[str, float]]:
    """Median and 90 % of the time of an answer and of its steps, in milliseconds, reading the photograph included."""
    steps = {step: np.array([answer.elapsed_ms[step] for answer in answers]) for step in answers[0].elapsed_ms}
    every = {**steps, "all": np.sum(list(steps.values()), axis=0)}
    return {
        step: {"median": round(float(np.median(ms)), 1), "90": round(float(np.quantile(ms, 0.9)), 1)}
        for step, ms in every.items()
    }


def errors(dataset: Dataset, answers: list[Answer | None], here: np.ndarray[Any, np.dtype[np.bool_]]) -> dict[str, Any]:
    """Median and 90 % of the metres between answer and truth, where the map says "here"; also of fused positions."""
    truth = [image.position for image in of_image_set(dataset.queries)]
    ways: dict[str, list[float]] = {"first": [], **{f"fused_{radius:g}_m": [] for radius in RADII_M}}
    for answer, place, said in zip(answers, truth, here, strict=True):
        if not said or answer is None or place is None or answer.position is None:
            continue
        first = answer.candidates[0].position
        assert first is not None
        ways["first"].append(first.distance_m(place))
        for radius in RADII_M:
            moved = fused(answer.candidates, radius)
            assert moved is not None
            ways[f"fused_{radius:g}_m"].append(moved.distance_m(place))
    return {
        way: {"median": round(float(np.median(metres)), 2), "90": round(float(np.quantile(metres, 0.9)), 2)}
        for way, metres in ways.items()
        if metres
    }


if __name__ == "__main__":
    main()
