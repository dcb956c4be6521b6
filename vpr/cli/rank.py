"""``vpr rank``: one photograph against every image of a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vpr.cli.common import BadImageOption, ConfigOption, SetOption, say, settings_of, with_bad_images
from vpr.cli.on_ray import RayOption, StagingOption, WorkerCpusOption, WorkerGpusOption, ray_workers

SHOWN = 5


def rank(
    query: Annotated[Path, typer.Argument(help="An image.")],
    *,
    among: Annotated[
        Path,
        typer.Option(
            help="Folder of images; or their features: a folder that feature-extract or a run left, or hloc's .h5."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder for ranking_score.csv, features and drawings.")],
    images: Annotated[Path | None, typer.Option(help="Folder of the images behind features, for the drawings.")] = None,
    viz: Annotated[
        bool, typer.Option("--viz", help="Write the matches of the first candidates as npz, and draw them.")
    ] = False,
    first: Annotated[int, typer.Option(help="How many candidates --viz writes.", min=1)] = 10,
    viz_extension: Annotated[str, typer.Option(metavar="png|jpg|pdf|svg", help="Format of the drawings.")] = "png",
    show_keypoints: Annotated[bool, typer.Option("--show-keypoints", help="Draw all keypoints, too.")] = False,
    on_bad_image: BadImageOption = None,
    config: ConfigOption = None,
    overrides: SetOption = None,
    ray: RayOption = None,
    staging: StagingOption = None,
    worker_cpus: WorkerCpusOption = 1,
    worker_gpus: WorkerGpusOption = None,
) -> None:
    """Rank the images of a folder by how well they match one image: no shortlist, each is matched and verified.

    The score is that of the config (`rerank.score`); a higher one is better. Features are kept in OUT and reused.
    """
    from vpr.pairs.drawing import require_extension
    from vpr.pairs.ranking import FILE_NAME, FirstPairs, rank_among

    settings = settings_of(config, with_bad_images(overrides, on_bad_image))
    require_extension(viz_extension)
    how = FirstPairs(first, viz, viz_extension, show_keypoints)
    with ray_workers(ray, staging, worker_cpus, worker_gpus, out) as workers:
        rows = rank_among(query, among, settings, out, first=how, images=images, workers=workers)
    for place, row in enumerate(rows[:SHOWN], 1):
        say(f"{place}. {row.image1}  score {row.score:.4g}, {row.inliers} of {row.matches} matches verified")
    say(f"Ranking: {out / FILE_NAME}, {len(rows)} images")
