"""``vpr evaluate``: local features, matchers and estimators on the geometry benchmarks."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vpr.cli.common import ConfigOption, SetOption
from vpr.cli.geometry import Options, run_homographies, run_poses

if TYPE_CHECKING:
    from vpr.datasets.pose_pairs import PosePair

app = typer.Typer(
    help="Geometry benchmarks: homographies and relative poses from local features and matchers.",
    no_args_is_help=True,
)

OutOption = Annotated[Path, typer.Option(help="Folder for rows.csv, summary.json and summary.md.")]
ProtocolOption = Annotated[
    str,
    typer.Option(metavar="NAME", help="plain, superpoint, rpautrat-detectors, rpautrat-descriptors or glue-factory."),
]
EstimatorOption = Annotated[
    list[str] | None,
    typer.Option(
        "--estimator",
        metavar="NAME[:PX]",
        help="An estimator with its threshold in pixels, instead of the protocol's; may be repeated.",
    ),
]
LongestOption = Annotated[
    int | None, typer.Option(help="Measure at this longest side in pixels, instead of the protocol's size.", min=16)
]
FirstOption = Annotated[int | None, typer.Option(help="Only so many pairs, the first ones.", min=1)]
PairsArgument = Annotated[Path, typer.Argument(help="Text file with a pair per line (docs/geometry.md).")]
ImagesOption = Annotated[
    Path | None, typer.Option(help="Folder that the names in the list are relative to; the list's own by default.")
]


@app.command()
def hpatches(
    root: Annotated[Path, typer.Argument(help="HPatches' full sequences: folders i_* and v_*.")],
    *,
    out: OutOption,
    protocol: ProtocolOption = "glue-factory",
    large: Annotated[
        bool | None,
        typer.Option(help="Keep the eight sequences of very large pictures; glue-factory leaves them out."),
    ] = None,
    estimators: EstimatorOption = None,
    longest_side: LongestOption = None,
    first: FirstOption = None,
    config: ConfigOption = None,
    overrides: SetOption = None,
) -> None:
    """Homographies of HPatches: repeatability, localisation, NN mAP, matching score, correctness and AUC."""
    from vpr.datasets.homography_pairs import read_hpatches

    keep = protocol != "glue-factory" if large is None else large
    pairs = read_hpatches(root, large=keep)
    options = Options(out, estimators, longest_side, config, overrides)
    run_homographies("hpatches", pairs[:first], protocol, options)


@app.command("homography-folder")
def homography_folder(
    root: Annotated[Path, typer.Argument(help="Folder with pictures and homographies.csv.")],
    *,
    out: OutOption,
    protocol: ProtocolOption = "plain",
    estimators: EstimatorOption = None,
    longest_side: LongestOption = None,
    first: FirstOption = None,
    config: ConfigOption = None,
    overrides: SetOption = None,
) -> None:
    """Homographies of any pictures: columns image_a, image_b, h00 to h22, pixels of a to pixels of b."""
    from vpr.datasets.homography_pairs import read_homography_folder

    pairs = read_homography_folder(root)
    options = Options(out, estimators, longest_side, config, overrides)
    run_homographies("homography-folder", pairs[:first], protocol, options)


@app.command()
def megadepth1500(
    pairs: PairsArgument,
    *,
    out: OutOption,
    images: ImagesOption = None,
    estimators: EstimatorOption = None,
    longest_side: LongestOption = None,
    first: FirstOption = None,
    config: ConfigOption = None,
    overrides: SetOption = None,
) -> None:
    """Relative poses of MegaDepth-1500: pairs_calibrated.txt of Glue Factory."""
    listed = _listed(pairs, images)[:first]
    run_poses("megadepth1500", listed, Options(out, estimators, longest_side, config, overrides))


@app.command()
def scannet1500(
    pairs: PairsArgument,
    *,
    out: OutOption,
    images: ImagesOption = None,
    estimators: EstimatorOption = None,
    longest_side: LongestOption = None,
    first: FirstOption = None,
    config: ConfigOption = None,
    overrides: SetOption = None,
) -> None:
    """Relative poses of ScanNet-1500: SuperGlue's list, or pairs_calibrated.txt of Glue Factory."""
    listed = _listed(pairs, images)[:first]
    run_poses("scannet1500", listed, Options(out, estimators, longest_side, config, overrides))


@app.command()
def yfcc(
    pairs: PairsArgument,
    *,
    out: OutOption,
    images: ImagesOption = None,
    estimators: EstimatorOption = None,
    longest_side: LongestOption = None,
    first: FirstOption = None,
    config: ConfigOption = None,
    overrides: SetOption = None,
) -> None:
    """Relative poses of YFCC: SuperGlue's list yfcc_test_pairs_with_gt.txt."""
    listed = _listed(pairs, images)[:first]
    run_poses("yfcc", listed, Options(out, estimators, longest_side, config, overrides))


@app.command("pose-folder")
def pose_folder(
    root: Annotated[Path, typer.Argument(help="Folder with pictures and poses.csv, or a demo city.")],
    *,
    out: OutOption,
    steps: Annotated[
        list[int] | None,
        typer.Option("--step", help="Pair pictures so many rows of poses.csv apart; may be repeated (1, 2, 5).", min=1),
    ] = None,
    estimators: EstimatorOption = None,
    longest_side: LongestOption = None,
    first: FirstOption = None,
    config: ConfigOption = None,
    overrides: SetOption = None,
) -> None:
    """Relative poses of any pictures: columns image and p0 to p11, the camera-to-world matrix row by row."""
    from vpr.datasets.pose_pairs import STEPS, read_pose_folder

    pairs = read_pose_folder(root, steps or STEPS)[:first]
    run_poses("pose-folder", pairs, Options(out, estimators, longest_side, config, overrides))


def _listed(pairs: Path, images: Path | None) -> list[PosePair]:
    from vpr.datasets.pose_pairs import read_pair_list

    return read_pair_list(pairs, images or pairs.parent)
