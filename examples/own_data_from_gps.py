"""Your own images with GPS: a table of positions in, recall and a report out.

    python examples/own_data_from_gps.py PICTURES points.csv OUT

points.csv has the columns name, role (database or query), lat and lon; names are relative to PICTURES.
"""

import sys
from pathlib import Path

from vpr import pipeline
from vpr.datasets import ground_truth, points
from vpr.datasets.image_lists import DATABASE_SUFFIX, QUERY_SUFFIX, read_image_lists
from vpr.settings import Settings


def main(pictures: Path, table: Path, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    npz = out / "positions.npz"
    points.make_from_csv(table, npz, radius_m=25.0)

    # Before any recall: how many queries can be answered at all, and from how far away?
    print(ground_truth.check_text(ground_truth.check(ground_truth.dataset_of_npz(npz))))

    dataset = read_image_lists(
        root=pictures,
        database=points.list_path(npz, DATABASE_SUFFIX),
        queries=points.list_path(npz, QUERY_SUFFIX),
        ground_truth=npz,
    )
    summary = pipeline.run(dataset, Settings(), out, about={"command": " ".join(sys.argv)}).summary
    for stage, table_of_recalls in summary.recalls.items():
        first = table_of_recalls.over_answerable[0]
        print(
            f"{stage}: recall@1 {100 * first.value:.1f} % of the answerable queries [{first.low:.2f}, {first.high:.2f}]"
        )
    print(f"Look at {out / 'report.html'}")


if __name__ == "__main__":
    main(*(Path(argument) for argument in sys.argv[1:4]))
