"""``vpr evaluate``: local features, matchers and estimators on the geometry benchmarks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from vpr.cli.common import ConfigOption, SetOption, command_line, say, settings_of
from vpr.core import ConfigError

DATASETS = {
    "hpatches": "HPatches' full sequences: folders i_* and v_*",
    "homography-folder": "a folder with images and homographies.csv: image_a, image_b, h00 to h22",
    "megadepth1500": "pairs_calibrated.txt of Glue Factory",
    "scannet1500": "SuperGlue's list, or pairs_calibrated.txt of Glue Factory",
    "scannet": "IMP's scannet_sp_1000.hdf5, or its list scannet_eval_list.txt with --images",
    "yfcc": "SuperGlue's yfcc_test_pairs_with_gt.txt, IMP's yfcc_sp_2000.hdf5, or a folder with pairs and yfcc100m",
    "pose-folder": "a folder with images and poses.csv (image, p0 to p11), or a demo city",
    "eth3d": "folders of ETH3D's undistorted scenes with depth",
    "segmentation": "labelled images, see --layout",
}


def evaluate(
    source: Annotated[
        list[str],
        typer.Argument(
            metavar="[DATASET] PATH",
            help=" ".join(f"{name}: {what}." for name, what in DATASETS.items()) + " The name may be given here.",
        ),
    ],
    *,
    out: Annotated[Path, typer.Option(help="Folder for rows.csv, summary.json and summary.md.")],
    dataset: Annotated[str | None, typer.Option(metavar="DATASET", help=f"One of {', '.join(DATASETS)}.")] = None,
    protocol: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Of homographies: plain, superpoint, rpautrat-detectors, rpautrat-descriptors or glue-factory.",
        ),
    ] = None,
    large: Annotated[
        bool | None,
        typer.Option(help="hpatches: keep the eight sequences of very large images; glue-factory leaves them out."),
    ] = None,
    images: Annotated[
        Path | None, typer.Option(help="Folder that the names in a list are relative to; the list's own by default.")
    ] = None,
    steps: Annotated[
        list[int] | None,
        typer.Option(
            "--step", help="pose-folder: pair images this many rows of poses.csv apart; may be repeated.", min=1
        ),
    ] = None,
    estimators: Annotated[
        list[str] | None,
        typer.Option(
            "--estimator",
            metavar="NAME[:PX]",
            help="An estimator with its threshold in pixels, instead of the protocol's; may be repeated.",
        ),
    ] = None,
    longest_side: Annotated[
        int | None, typer.Option(help="Measure at this longest side in pixels, not at the protocol's size.", min=16)
    ] = None,
    examples: Annotated[
        int, typer.Option(help="Draw this many pairs, from the most correct matches to the fewest.", min=0)
    ] = 6,
    viz_extension: Annotated[str, typer.Option(metavar="jpg|png|pdf|svg", help="Format of the drawings.")] = "jpg",
    show_keypoints: Annotated[bool, typer.Option("--show-keypoints", help="Draw all keypoints, too.")] = False,
    first: Annotated[int | None, typer.Option(help="Only the first pairs, this many.", min=1)] = None,
    layout: Annotated[
        str | None, typer.Option(help="segmentation: cityscapes, coco, coco-cs34, kitti or folders (images, labels).")
    ] = None,
    split: Annotated[str | None, typer.Option(help="segmentation: train or val, which is the default.")] = None,
    head: Annotated[
        str | None, typer.Option(metavar="NAME|FILE", help="segmentation: weights of the head to measure.")
    ] = None,
    predictions: Annotated[
        Path | None, typer.Option(help="segmentation: folder of masks of Cityscapes ids, instead of a head's.")
    ] = None,
    category_file: Annotated[
        Path | None, typer.Option(help="segmentation: classes to measure --predictions by; street's without.")
    ] = None,
    config: ConfigOption = None,
    overrides: SetOption = None,
) -> None:
    """Measure homographies and relative poses from local features and matchers, and segmentation, by a known truth.

    Segmentation: mean IoU, IoU and accuracy of each class, pixel accuracy, and pictures.
    ETH3D: average precision of the matched points, and of matched lines by image_matcher.method = "gluestick".
    Homographies: repeatability, localisation, NN mAP, matching score, correctness and AUC. Poses: AUC of the pose
    error, and precision of the matches. An interrupted benchmark continues.
    """
    from vpr.geometry_benchmark import Options, run_homographies, run_poses, run_stored_poses
    from vpr.geometry_examples import Examples
    from vpr.report.match_images import require_suffix

    name, path = _source(source, dataset)
    of_masks = {"--layout": layout, "--split": split, "--head": head, "--predictions": predictions,
                "--category-file": category_file}  # fmt: skip
    if name == "segmentation":
        from vpr.cli.evaluate_segmentation import evaluate_segmentation

        _refuse(name, {"--protocol": protocol, "--large": large, "--images": images, "--step": steps,
                       "--estimator": estimators, "--longest-side": longest_side, "--first": first,
                       "--config": config})  # fmt: skip
        say(
            evaluate_segmentation(
                path, out, layout or "cityscapes", split or "val", head=head, predictions=predictions,
                category_file=category_file, pictures=examples, overrides=overrides
            )
        )  # fmt: skip
        return
    _refuse(name, of_masks)
    if name == "eth3d":
        from vpr.datasets.eth3d import read_eth3d
        from vpr.depth_benchmark import run_depth_pairs

        _refuse(name, {"--protocol": protocol, "--large": large, "--images": images, "--step": steps,
                       "--estimator": estimators, "--longest-side": longest_side})  # fmt: skip
        say(run_depth_pairs(name, read_eth3d(path)[:first], settings_of(config, overrides), out, command_line()))
        return
    options = Options(
        out,
        lambda protocol_settings: settings_of(config, [*protocol_settings, *(overrides or [])]),
        command_line(),
        estimators,
        longest_side,
        Examples(examples, viz_extension, show_keypoints),
    )
    require_suffix(Path(f"example.{viz_extension.removeprefix('.')}"))
    homographies = name in ("hpatches", "homography-folder")
    _refuse(name, {"--protocol": protocol} if not homographies else {"--images": images})
    _refuse(name, {"--large": large} if name != "hpatches" else {})
    _refuse(name, {"--step": steps} if name != "pose-folder" else {})
    if homographies:
        protocol = protocol or ("glue-factory" if name == "hpatches" else "plain")
        say(run_homographies(name, homography_pairs(name, path, protocol, large)[:first], protocol, options))
    elif name in ("yfcc", "scannet") and path.suffix in (".hdf5", ".h5"):
        say(run_stored_poses(name, path, images or path.parent, first, options))
    else:
        say(run_poses(name, pose_pairs(name, path, images, steps)[:first], options))


def _source(source: Sequence[str], dataset: str | None) -> tuple[str, Path]:
    """Name and path of the data set, the name given by --dataset or before the path."""
    given = list(source) if dataset is None else [dataset, *source]
    if len(given) != 2:
        raise ConfigError(f"give a data set and its path, for instance hpatches ROOT; got {' '.join(given)!r}")
    name, path = given
    if name not in DATASETS:
        raise ConfigError(f"unknown data set {name!r}; known: {', '.join(DATASETS)}")
    return name, Path(path)


def _refuse(name: str, options: dict[str, Any]) -> None:
    """Raise ConfigError for an option that has no meaning for a data set."""
    for option, value in options.items():
        if value is not None:
            raise ConfigError(f"{option} has no meaning for the data set {name}; leave it out")


def homography_pairs(name: str, path: Path, protocol: str, large: bool | None = None) -> Sequence[Any]:
    from vpr.datasets.homography_pairs import read_homography_folder, read_hpatches

    if name == "homography-folder":
        return read_homography_folder(path)
    return read_hpatches(path, large=protocol != "glue-factory" if large is None else large)


def pose_pairs(name: str, path: Path, images: Path | None, steps: Sequence[int] | None) -> Sequence[Any]:
    from vpr.datasets.pose_pairs import STEPS, read_pair_list, read_pose_folder
    from vpr.datasets.raw_pose_pairs import read_scannet_raw, read_yfcc_raw

    if name == "pose-folder":
        _refuse(name, {"--images": images})
        return read_pose_folder(path, steps or STEPS)
    if name == "scannet":
        return read_scannet_raw(path, images or path.parent)
    if name == "yfcc" and path.is_dir():
        _refuse("yfcc from a folder", {"--images": images})
        return read_yfcc_raw(path)
    return read_pair_list(path, images or path.parent)
