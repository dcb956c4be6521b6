"""``vpr export``: features, matches and rankings in the files of other programs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from vpr.cli.common import ConfigOption, SetOption, say, settings_of
from vpr.core import ConfigError

app = typer.Typer(help="Write features, matches or rankings in the files of other programs.", no_args_is_help=True)

Out = Annotated[Path, typer.Option(help="File to write.")]
Hloc = Annotated[Literal["hloc"], typer.Option("--format", help="The only one: HDF5 as hloc reads and writes it.")]


@app.command()
def features(
    folder: Annotated[Path, typer.Argument(help="Folder of a run, of match-pairs, or of feature-extract.")],
    *,
    out: Out,
    kind: Annotated[Literal["local", "global"], typer.Option(help="Local features or global descriptors.")] = "local",
    form: Hloc = "hloc",
    images: Annotated[Path | None, typer.Option(help="Folder of the images, if they were moved.")] = None,
) -> None:
    """Local features (keypoints in pixels of the stored images) or global descriptors, one group for each image.

    Of a run, images have the names of its pairs_hloc.txt.
    """
    from vpr.pairs.exporting import export_descriptors, export_features

    count = export_features(folder, out, images) if kind == "local" else export_descriptors(folder, out, images)
    say(f"Features of {count} images: {out}")


@app.command()
def matches(
    folder: Annotated[Path, typer.Argument(help="Folder that `vpr match-pairs` wrote.")],
    *,
    out: Out,
    form: Hloc = "hloc",
) -> None:
    """Matches and their confidences, one group for each pair."""
    from vpr.pairs.exporting import export_matches

    say(f"Matches of {export_matches(folder, out)} pairs: {out}")


@app.command()
def colmap(
    folder: Annotated[Path, typer.Argument(help="Folder that `vpr match-pairs` wrote.")],
    *,
    out: Out,
    shared_cameras: Annotated[
        bool, typer.Option("--shared-cameras", help="One camera for all images of one size, not one for each image.")
    ] = False,
) -> None:
    """A COLMAP database: cameras, images, keypoints, matches and two-view geometries."""
    from vpr.pairs.exporting import export_colmap

    say(f"Database of {export_colmap(folder, out, shared_cameras=shared_cameras)} images: {out}")


@app.command("msls-challenge")
def msls_challenge(
    folder: Annotated[Path, typer.Argument(help="Folder of a run.")],
    *,
    out: Out,
    k: Annotated[int, typer.Option(help="Candidates of each query.", min=1)] = 25,
) -> None:
    """Predictions as the MSLS challenge takes them: on each line a query's key and the keys of its candidates."""
    from vpr.report.finished import read_run
    from vpr.report.msls_challenge import write_msls_challenge

    run = read_run(folder)
    write_msls_challenge(out, run.dataset, list(run.stages.values())[-1], k)
    say(f"Predictions of {len(run.dataset.queries)} queries: {out}")


@app.command("npz")
def npz(
    source: Annotated[Path, typer.Argument(help="Folder of images; with --pairs that of the pairs.")],
    *,
    out: Annotated[Path, typer.Option(help="Folder for one npz of each image, or of each pair.")],
    pairs: Annotated[
        Literal["hpatches", "homography-folder"] | None,
        typer.Option(help="Pairs with a known homography, as in `vpr evaluate`, and their matches."),
    ] = None,
    export_segmentation: Annotated[
        str | None,
        typer.Option(
            "--export-segmentation", metavar="NAME|FILE", help="The classes of the pixels, too, by this head."
        ),
    ] = None,
    output_images: Annotated[
        bool, typer.Option("--output-images", "--outputImg", help="Draw keypoints, classes and matches, too.")
    ] = False,
    config: ConfigOption = None,
    overrides: SetOption = None,
) -> None:
    """Keypoints, descriptors, classes and matches of any images: a folder, COCO's, Cityscapes', or HPatches' pairs.

    Classical features by --set local_features.method=sift. An interrupted export continues.
    """
    from vpr.build import build_local, build_matcher, refuse_masks
    from vpr.config import plain
    from vpr.image_exports import Exporter, export_images, export_pairs
    from vpr.local_features.segmentation import load_segmenter
    from vpr.runtime.device import device_of

    settings = settings_of(config, overrides)
    refuse_masks(settings, "an export of npz files")
    chosen = export_segmentation
    segmenter = None if chosen is None else load_segmenter(chosen, device_of(settings.machine.device))
    exporter = Exporter(build_local(settings), segmenter, output_images, settings.images.max_megapixels)
    made_by = [
        plain(settings.local_features),
        exporter.extractor.weights,
        "" if segmenter is None else segmenter.weights,
    ]
    if pairs is None:
        count, bad = export_images(source, out, exporter, made_by)
        say(f"{count} images{f', {bad} more cannot be read' if bad else ''}: {out}")
        return
    from vpr.datasets.homography_pairs import read_homography_folder, read_hpatches

    listed = read_hpatches(source) if pairs == "hpatches" else read_homography_folder(source)
    matcher = build_matcher(settings)
    count = export_pairs(listed, out, exporter, matcher, [*made_by, plain(settings.matcher), matcher.weights])
    say(f"{count} pairs: {out}")


@app.command()
def labels(
    folder: Annotated[Path, typer.Argument(help="Labels that `vpr train label` made.")],
    *,
    out: Annotated[Path, typer.Option(help="Folder for one npz of each image, with pts (N, 3).")],
) -> None:
    """Points of homographic adaptation as pytorch-superpoint's pseudo labels."""
    from vpr.training.adaptation import export_labels

    if not folder.is_dir():
        raise ConfigError(f"{folder}: no such folder of labels")
    say(f"Labels of {export_labels(folder, out)} images: {out}")
