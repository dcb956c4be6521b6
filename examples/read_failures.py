"""Find the failures of a finished run, by kind, and draw the matches that misled it.

    python examples/read_failures.py RUN OUT

RUN is the output folder of `vpr run`; OUT receives one picture per failure.
"""

import sys
from pathlib import Path

import cv2
import numpy as np

from vpr.build import build_extractor, build_reranker
from vpr.config import load
from vpr.evaluation.recall import NEVER, first_hits
from vpr.features.feature_set import FeatureFolders
from vpr.images import read_image, resize
from vpr.report.drawing import draw_matches
from vpr.report.finished import read_run
from vpr.settings import Settings


def main(run: Path, out: Path, most: int = 10) -> None:
    report = read_run(run)
    dataset, settings = report.dataset, load(Settings, run / "settings.toml")
    shortlist, *_, predictions = report.stages.values()
    hits = {
        "shortlist": first_hits(shortlist, dataset.positives),
        "predictions": first_hits(predictions, dataset.positives),
    }

    answerable = np.array([len(rows) > 0 for rows in dataset.positives])
    missed = answerable & (hits["shortlist"] == NEVER)
    lost = answerable & (hits["shortlist"] == 1) & (hits["predictions"] > 1)
    never_first = answerable & ~missed & ~lost & (hits["predictions"] > 1)
    print(f"{answerable.sum()} queries can be answered; {(hits['predictions'] == 1).sum()} are")
    print(f"the shortlist missed {missed.sum()}, re-ranking lost {lost.sum()}, never first {never_first.sum()}")

    out.mkdir(parents=True, exist_ok=True)
    extractor, reranker = build_extractor(settings), build_reranker(settings)
    queries = extractor.open(dataset.queries, FeatureFolders.under(run / "features" / "queries")).rerank_store
    database = extractor.open(dataset.database, FeatureFolders.under(run / "features" / "database")).rerank_store
    for query in np.flatnonzero(missed | lost | never_first)[:most]:
        wrong = predictions.rows[query, 0]
        pair = reranker.pair(queries[query], database[wrong])
        name = dataset.queries.names[query]
        print(f"{name} was taken for {dataset.database.names[wrong]}: {pair.evidence.inliers} inliers")
        rows = pair.matches.pairs.numpy()
        picture = draw_matches(
            resize(read_image(dataset.queries.path(query), "rgb"), queries[query].image_size),
            resize(read_image(dataset.database.path(wrong), "rgb"), database[wrong].image_size),
            queries[query].points.numpy()[rows[:, 0]],
            database[wrong].points.numpy()[rows[:, 1]],
            pair.verified.inliers,
        )
        cv2.imwrite(str(out / f"{query:04}.jpg"), picture[..., ::-1])


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
