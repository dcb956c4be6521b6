"""Find the failures of a finished run, by kind, and draw the matches that misled it.

    python examples/read_failures.py RUN OUT

RUN is the output folder of `vpr run`; OUT receives one image per failure.
"""

import sys
from pathlib import Path

import numpy as np

import vpr
from vpr.evaluation.recall import NEVER, first_hits
from vpr.report.finished import read_run


def main(run: Path, out: Path, most: int = 10) -> None:
    report = read_run(run)
    dataset = report.dataset
    shortlist, *_, predictions = report.stages.values()
    before, after = (first_hits(ranking, dataset.positives) for ranking in (shortlist, predictions))

    answerable = np.array([len(rows) > 0 for rows in dataset.positives])
    missed = answerable & (before == NEVER)
    lost = answerable & (before == 1) & (after > 1)
    never_first = answerable & ~missed & ~lost & (after > 1)
    print(f"{answerable.sum()} queries can be answered; {(after == 1).sum()} are")
    print(f"the shortlist missed {missed.sum()}, re-ranking lost {lost.sum()}, never first {never_first.sum()}")

    for query in np.flatnonzero(missed | lost | never_first)[:most]:
        wrong = predictions.rows[query, 0]
        matches = vpr.match(dataset.queries.path(query), dataset.database.path(wrong), config=run / "settings.toml")
        print(f"{dataset.queries.names[query]} was taken for {dataset.database.names[wrong]}: {matches}")
        matches.save(out / f"{query:04}.jpg")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
