"""``feature_extract.py`` and ``feature_match.py`` with the flags of Patch-NetVLAD's scripts of these names.

Source: Hausler et al., CVPR 2021; what a flag means is the same, the files between the two commands are ours.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vpr.cli.common import SetOption, command_line, say, settings_of
from vpr.cli.patchnetvlad_ini import is_ini, run_overrides
from vpr.cli.run import say_results

if TYPE_CHECKING:
    from vpr.settings import Settings

Config = Annotated[
    str | None,
    typer.Option(
        "--config_path",
        metavar="NAME|FILE",
        help="A TOML file, Patch-NetVLAD's .ini file, or the name of a config that comes with vpr.",
    ),
]
Root = Annotated[Path, typer.Option("--dataset_root_dir", help="Folder that the names in the lists are relative to.")]
NoCuda = Annotated[bool, typer.Option("--nocuda", help="Use the CPU even where there is a GPU.")]


def feature_extract(
    *,
    dataset_file_path: Annotated[Path, typer.Option("--dataset_file_path", help="Text file, one image name per line.")],
    output_features_dir: Annotated[Path, typer.Option("--output_features_dir", help="Folder for the features.")],
    config_path: Config = None,
    dataset_root_dir: Root = Path(),
    nocuda: NoCuda = False,
    overrides: SetOption = None,
) -> None:
    """Extract the features of every image of a list into a folder.

    Started again after an interruption, it continues; a folder made with other settings is refused.
    """
    from vpr.build import build
    from vpr.core import DataError, ImageSet
    from vpr.datasets.image_lists import read_image_list
    from vpr.features.feature_set import FeatureFolders
    from vpr.features.masks import read_masks

    settings = _settings(config_path, overrides, nocuda)
    engine = build(settings)
    images = ImageSet(dataset_root_dir, read_image_list(dataset_file_path))
    masks = read_masks(settings.images.masks, images)
    work = engine.extractor.extract(images, FeatureFolders.under(output_features_dir), masks=masks).work
    failed = work.failed if work is not None else {}
    if len(failed) == len(images):
        raise DataError(f"{images.root}: not one of {len(images)} images can be used: {next(iter(failed.values()))}")
    say(f"Features of {len(images)} images: {output_features_dir}")


def feature_match(
    *,
    query_file_path: Annotated[Path, typer.Option("--query_file_path", help="List of the query images.")],
    index_file_path: Annotated[Path, typer.Option("--index_file_path", help="List of the database images.")],
    query_input_features_dir: Annotated[
        Path, typer.Option("--query_input_features_dir", help="Folder that feature_extract.py made of the queries.")
    ],
    index_input_features_dir: Annotated[
        Path, typer.Option("--index_input_features_dir", help="Folder that feature_extract.py made of the database.")
    ],
    config_path: Config = None,
    dataset_root_dir: Root = Path(),
    ground_truth_path: Annotated[
        Path | None,
        typer.Option("--ground_truth_path", help="npz with utmQ, utmDb and posDistThr; without it no recall."),
    ] = None,
    result_save_folder: Annotated[
        Path, typer.Option("--result_save_folder", help="Folder for predictions, recalls and report.")
    ] = Path("results"),
    pos_dist_thr: Annotated[
        float | None, typer.Option("--posDistThr", help="Radius in metres, instead of the one in the ground truth.")
    ] = None,
    group_size: Annotated[
        int | None,
        typer.Option("--group_size", help="Neighbouring database images of one panorama: 12 for Tokyo 24/7.", min=1),
    ] = None,
    nocuda: NoCuda = False,
    overrides: SetOption = None,
) -> None:
    """Shortlist and re-rank the queries of a list against the database of another, and measure recall."""
    from vpr import pipeline
    from vpr.build import build
    from vpr.datasets import hint, warn, with_warnings
    from vpr.datasets.image_lists import read_image_lists
    from vpr.descriptors import Features
    from vpr.features.feature_set import FeatureFolders
    from vpr.runtime import device as machine
    from vpr.runtime.timing import Clock

    if group_size is not None:
        overrides = ["shortlist.one_per_group=true", *(overrides or [])]
    settings = _settings(config_path, overrides, nocuda)
    dataset = read_image_lists(
        dataset_root_dir, index_file_path, query_file_path, ground_truth_path, pos_dist_thr, group_size=group_size
    )
    if resembled := hint(dataset):
        say(f"{dataset.name}: {resembled.replace('--protocol', 'vpr run --protocol')}")
    warnings = warn(dataset)
    engine, clock = build(settings), Clock()
    features = Features(
        engine.extractor.open(dataset.database, FeatureFolders.under(index_input_features_dir)),
        engine.extractor.open(dataset.queries, FeatureFolders.under(query_input_features_dir)),
    )
    matched = pipeline.match(dataset, features, engine, work=result_save_folder / "work", clock=clock)
    about = with_warnings(machine.facts(command_line(), machine.device_of(settings.machine.device)), warnings)
    root = "" if dataset_root_dir == Path() else str(dataset_root_dir)
    result = pipeline.report(dataset, matched, result_save_folder, about=about, clock=clock, root=root)
    say_results(result_save_folder, result)


def _settings(config_path: str | None, overrides: list[str] | None, nocuda: bool) -> Settings:
    device = ['machine.device="cpu"'] if nocuda else []
    if is_ini(config_path):
        return settings_of(None, [*run_overrides(Path(str(config_path))), *(overrides or []), *device])
    return settings_of(config_path, [*(overrides or []), *device])
