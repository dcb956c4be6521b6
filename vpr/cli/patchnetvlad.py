"""``feature_extract.py`` and ``feature_match.py`` with the flags of Patch-NetVLAD's scripts of these names.

Source: Hausler et al., CVPR 2021; what a flag means is the same, the files between the two commands are ours.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vpr.cli.common import SetOption, command_line, say, settings_of
from vpr.cli.patchnetvlad_files import (
    DEFAULT_CONFIG,
    GROUND_TRUTHS,
    LISTS,
    config_of,
    fetch_absent_weights,
    images_root,
    located,
)
from vpr.cli.patchnetvlad_folders import engine_for, open_features
from vpr.cli.patchnetvlad_ini import given_predictions, is_ini, run_overrides
from vpr.cli.run import read_given, say_results

if TYPE_CHECKING:
    from vpr.core import Dataset
    from vpr.settings import Settings

ConfigPath = Annotated[
    str | None,
    typer.Option(
        "--config_path",
        metavar="NAME|FILE",
        help="A TOML file, Patch-NetVLAD's .ini file, or the name of a config that comes with vpr; its performance "
        "config by default.",
    ),
]
Root = Annotated[Path, typer.Option("--dataset_root_dir", help="Folder that the names in the lists are relative to.")]
NoCuda = Annotated[bool, typer.Option("--nocuda", help="Use the CPU even where there is a GPU.")]


def feature_extract(
    *,
    dataset_file_path: Annotated[
        Path,
        typer.Option(
            "--dataset_file_path", help="Text file, one image name per line; also sought in dataset_imagenames."
        ),
    ],
    output_features_dir: Annotated[Path, typer.Option("--output_features_dir", help="Folder for the features.")] = Path(
        "output_features"
    ),
    config_path: ConfigPath = None,
    dataset_root_dir: Root = Path(),
    nocuda: NoCuda = False,
    overrides: SetOption = None,
) -> None:
    """Extract the features of every image of a list into a folder; weights that are absent are downloaded.

    Started again after an interruption, it continues; a folder made with other settings is refused.
    """
    from vpr.build import build
    from vpr.core import DataError, ImageSet
    from vpr.datasets.image_lists import read_listed
    from vpr.features.feature_set import FeatureFolders
    from vpr.features.masks import read_masks

    settings = settings_in(config_path, overrides, nocuda)
    root, names = read_listed(dataset_root_dir, located(dataset_file_path, LISTS))
    images = ImageSet(images_root(root, names), names)
    fetch_absent_weights(settings)
    engine = build(settings)
    masks = read_masks(settings.images.masks, images, settings.local_features)
    work = engine.extractor.extract(images, FeatureFolders.under(output_features_dir), masks=masks).work
    failed = work.failed if work is not None else {}
    if len(failed) == len(images):
        raise DataError(f"{images.root}: not one of {len(images)} images can be used: {next(iter(failed.values()))}")
    say(f"Features of {len(images)} images: {output_features_dir}")


def feature_match(
    *,
    query_file_path: Annotated[
        Path, typer.Option("--query_file_path", help="List of the query images; also sought in dataset_imagenames.")
    ],
    index_file_path: Annotated[
        Path, typer.Option("--index_file_path", help="List of the database images; also sought in dataset_imagenames.")
    ],
    query_input_features_dir: Annotated[
        Path,
        typer.Option(
            "--query_input_features_dir",
            help="Folder that feature_extract.py made of the queries, ours or Patch-NetVLAD's (.npy).",
        ),
    ],
    index_input_features_dir: Annotated[
        Path, typer.Option("--index_input_features_dir", help="The same of the database.")
    ],
    config_path: ConfigPath = None,
    dataset_root_dir: Root = Path(),
    ground_truth_path: Annotated[
        Path | None,
        typer.Option(
            "--ground_truth_path",
            help="npz with utmQ, utmDb and posDistThr, also sought in dataset_gt_files; without it no recall.",
        ),
    ] = None,
    result_save_folder: Annotated[
        Path, typer.Option("--result_save_folder", help="Folder for predictions, recalls and report.")
    ] = Path("results"),
    pos_dist_thr: Annotated[
        float | None, typer.Option("--posDistThr", help="Radius in metres, instead of the one in the ground truth.")
    ] = None,
    pred_input_path: Annotated[
        Path | None,
        typer.Option(
            "--pred_input_path",
            help="Re-rank this shortlist instead of searching: a .npy file of database rows, or a file of predictions.",
        ),
    ] = None,
    group_size: Annotated[
        int | None,
        typer.Option("--group_size", help="Neighbouring database images of one panorama: 12 for Tokyo 24/7.", min=1),
    ] = None,
    protocol: Annotated[
        str | None,
        typer.Option(
            "--protocol",
            metavar="NAME",
            help="Judge by a named protocol (`vpr datasets list`); tokyo247@nms keeps one image per panorama.",
        ),
    ] = None,
    nocuda: NoCuda = False,
    overrides: SetOption = None,
) -> None:
    """Shortlist and re-rank the queries of a list against the database of another, and measure recall."""
    from vpr import datasets, pipeline
    from vpr.datasets.image_lists import read_image_lists, read_listed
    from vpr.datasets.locating import CUT_OUTS
    from vpr.descriptors import Features
    from vpr.runtime import device as machine
    from vpr.runtime.timing import Clock

    record = None if protocol is None else datasets.protocol(protocol)
    if record is not None and record.one_per_group:
        group_size = group_size or CUT_OUTS
    if group_size is not None:
        overrides = ["shortlist.one_per_group=true", *(overrides or [])]
    settings = settings_in(config_path, overrides, nocuda)
    index_file_path, query_file_path = (located(path, LISTS) for path in (index_file_path, query_file_path))
    root = dataset_root_dir
    listed_in, names = read_listed(root, index_file_path)
    if listed_in == root:
        root = images_root(root, names)
    truth = None if ground_truth_path is None else located(ground_truth_path, GROUND_TRUTHS)
    dataset = read_image_lists(root, index_file_path, query_file_path, truth, pos_dist_thr, group_size=group_size)
    if record is not None:
        dataset = datasets.judge(dataset, record)
    elif resembled := datasets.hint(dataset):
        say(f"{dataset.name}: {resembled}")
    pred_input_path = pred_input_path or _predictions_named_in(config_path)
    shortlist, more = (None, []) if pred_input_path is None else read_given(pred_input_path, dataset)
    warnings = [*datasets.warn(dataset), *more]
    folders = (index_input_features_dir, query_input_features_dir)
    engine, clock = engine_for(settings, folders, retrieves=shortlist is None), Clock()
    of_database, of_queries = (
        open_features(engine, *each) for each in zip((dataset.database, dataset.queries), folders, strict=True)
    )
    features = Features(of_database, of_queries)
    matched = pipeline.match(
        dataset, features, engine, work=result_save_folder / "work", clock=clock, shortlist=shortlist
    )
    about = machine.facts(command_line(), machine.device_of(settings.machine.device))
    about = datasets.with_warnings(about, warnings)
    result = pipeline.report(
        dataset, matched, result_save_folder, about=about, clock=clock, root=_root_in_files(dataset, root)
    )
    say_results(result_save_folder, result)


def settings_in(
    config_path: str | None, overrides: list[str] | None, nocuda: bool, *, default: str | None = DEFAULT_CONFIG
) -> Settings:
    """The settings of a config, or of an .ini file of Patch-NetVLAD."""
    device = ['machine.device="cpu"'] if nocuda else []
    chosen = config_of(config_path or default)
    if chosen is not None and is_ini(chosen):
        return settings_of(None, [*run_overrides(Path(chosen)), *(overrides or []), *device])
    return settings_of(chosen, [*(overrides or []), *device])


def _predictions_named_in(config_path: str | None) -> Path | None:
    chosen = config_of(config_path)
    return given_predictions(Path(chosen)) if chosen is not None and is_ini(chosen) else None


def _root_in_files(dataset: Dataset, root: Path) -> str | None:
    """What stands before the names in Patch-NetVLAD's files; None for each side's own folder, of absolute lists."""
    if dataset.database.root != root or dataset.queries.root != root:
        return None
    return "" if root == Path() else str(root)


def download_models(
    ask_for_permission: Annotated[
        bool, typer.Option("--ask_for_permission", help="Ask before anything is downloaded.")
    ] = False,
) -> None:
    """Download the six published checkpoints of Patch-NetVLAD, about 2 GB; `vpr models fetch NAME` takes one."""
    from vpr.cli.models import fetch_absent
    from vpr.weights.finding import cache_folder
    from vpr.weights.manifest import read_manifest

    entries = [entry for entry in read_manifest().values() if entry.name.startswith("patch_netvlad_")]
    if ask_for_permission and not typer.confirm(f"Download {len(entries)} checkpoints to {cache_folder()}?"):
        return
    for entry in entries:
        say(f"{entry.name}: {fetch_absent(entry)}")
