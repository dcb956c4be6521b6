"""``vpr train-netvlad`` and ``vpr pca``: NetVLAD's published training, with the flags of Patch-NetVLAD's scripts.

Source: Hausler et al., CVPR 2021; what a flag means is the same, the settings are TOML. ``train.py`` comes here when
it is given ``--dataset_root_dir``.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vpr.cli.common import SetOption, say
from vpr.cli.patchnetvlad_files import CONFIGS, located
from vpr.cli.patchnetvlad_ini import is_ini, training_overrides
from vpr.core import ConfigError

if TYPE_CHECKING:
    from vpr.training.colour_images import ColourImages
    from vpr.training.netvlad_data import TrainingData
    from vpr.training.netvlad_recipe import Settings

logger = logging.getLogger(__name__)

Config = Annotated[Path | None, typer.Option("--config_path", help="A TOML file; without it the published values.")]
Root = Annotated[
    Path, typer.Option("--dataset_root_dir", help="MSLS's folder with train_val; or Pittsburgh's, with *_train.mat.")
]
Threads = Annotated[int, typer.Option("--threads", help="Threads that decode images.", min=1)]
NoCuda = Annotated[bool, typer.Option("--nocuda", help="Use the CPU even where there is a GPU.")]
Trainset = Annotated[str, typer.Option("--trainset", help="mapillary or pitts.")]
Panoramas = Annotated[bool, typer.Option("--includepanos", help="Full panoramas too (mapillary).")]


def train_netvlad(
    *,
    dataset_root_dir: Root,
    config: Config = None,
    save_path: Annotated[Path, typer.Option("--save_path", help="Folder for the runs.")] = Path("runs"),
    identifier: Annotated[str, typer.Option("--identifier", help="Name of this run.")] = "mapillary_nopanos",
    cache_path: Annotated[
        Path | None, typer.Option("--cache_path", help="Folder for the centroids; without it the run's.")
    ] = None,
    cluster_path: Annotated[
        Path | None, typer.Option("--cluster_path", help="Centroids of an earlier run, instead of finding some.")
    ] = None,
    resume_path: Annotated[
        Path | None, typer.Option("--resume_path", help="Checkpoint to begin with; without it the run's own, if any.")
    ] = None,
    trainset: Trainset = "mapillary",
    includepanos: Panoramas = False,
    epochs: Annotated[int, typer.Option("--nEpochs", help="Epochs, earlier ones included.", min=1)] = 30,
    start_epoch: Annotated[int, typer.Option("--start_epoch", help="Epochs done, if the checkpoint is silent.")] = 0,
    save_every_epoch: Annotated[bool, typer.Option("--save_every_epoch", help="Keep every epoch's weights.")] = False,
    threads: Threads = 6,
    nocuda: NoCuda = False,
    overrides: SetOption = None,
) -> None:
    """Train NetVLAD on triplets with mined negatives; `vpr pca` comes after.

    Started again after an interruption, it continues: a kill loses one cache of queries at most.
    """
    from vpr.config import dump
    from vpr.global_descriptors.netvlad import NetVladNetwork
    from vpr.runtime.files import write_atomically
    from vpr.training.netvlad_network import find_clusters, fresh_network
    from vpr.training.netvlad_recipe import CHECKPOINT, Recipe
    from vpr.weights import read_checkpoint

    settings, data, loader = _prepared(
        config,
        overrides,
        root=dataset_root_dir,
        trainset=trainset,
        panoramas=includepanos,
        threads=threads,
        nocuda=nocuda,
    )
    out = save_path / identifier
    _require_same(out / "settings.toml", settings)
    own = out / CHECKPOINT
    begin = own if own.exists() else resume_path
    if begin is not None:
        network = NetVladNetwork.from_state_dict(read_checkpoint(begin))
    else:
        network = fresh_network(settings.clusters, settings.backbone).to(loader.device)
    out.mkdir(parents=True, exist_ok=True)  # what cannot start leaves no settings behind
    write_atomically(out / "settings.toml", dump(settings))
    if begin is None:
        known = (cache_path or out) / "centroids" / f"vgg16_{trainset}_{settings.clusters}.safetensors"
        find_clusters(network, data.training.database, loader, cluster_path or known, settings.seed)
    recipe = Recipe(network, data, settings, loader=loader, out=out)
    if begin is not None:
        recipe.resume(begin)
    recipe.epoch = max(recipe.epoch, start_epoch)
    recipe.run(epochs, save_every_epoch)
    say(f"Best recall@5 {recipe.best:.4f}: {out / 'model_best.pth.tar'}")


def pca(
    *,
    resume_path: Annotated[Path, typer.Option("--resume_path", help="Trained checkpoint.")],
    dataset_root_dir: Root,
    config: Config = None,
    dataset_choice: Annotated[str, typer.Option("--dataset_choice", help="mapillary or pitts.")] = "mapillary",
    includepanos: Panoramas = False,
    threads: Threads = 6,
    nocuda: NoCuda = False,
    overrides: SetOption = None,
) -> None:
    """Add PCA whitening to a trained NetVLAD; the result lies beside it, with _WPCA and the dimension in its name.

    The dimension is the setting dim: --set dim=512.
    """
    from vpr.global_descriptors.netvlad import NetVladNetwork
    from vpr.global_descriptors.networks import load_network
    from vpr.training.netvlad_pca import add_whitening, save_whitened, whitened_path

    settings, data, loader = _prepared(
        config,
        overrides,
        root=dataset_root_dir,
        trainset=dataset_choice,
        panoramas=includepanos,
        threads=threads,
        nocuda=nocuda,
    )
    network, _ = load_network(str(resume_path), NetVladNetwork.from_state_dict)
    images, most = data.training.database, settings.whitening_images
    whitened = add_whitening(network, images, loader, dim=settings.dim, most=most, seed=settings.seed)
    out = whitened_path(resume_path, settings.dim)
    save_whitened(whitened, out)
    say(f"{settings.dim} dimensions: {out}")
    say(f"use it with --config netvlad --set global_descriptor.weights={out}")


def _prepared(
    config: Path | None,
    overrides: list[str] | None,
    *,
    root: Path,
    trainset: str,
    panoramas: bool,
    threads: int,
    nocuda: bool,
) -> tuple[Settings, TrainingData, ColourImages]:
    from vpr import config as configuration
    from vpr.runtime.device import device_of
    from vpr.training.colour_images import ColourImages
    from vpr.training.netvlad_data import TRAINSETS
    from vpr.training.netvlad_recipe import Settings

    if trainset not in TRAINSETS:
        raise ConfigError(f"unknown training set {trainset!r}; known: {', '.join(sorted(TRAINSETS))}")
    given = training_overrides(located(config, CONFIGS)) if config is not None and is_ini(config) else []
    settings = configuration.load(Settings, None if is_ini(config) else config, [*given, *(overrides or [])])
    data = TRAINSETS[trainset](root, panoramas)
    logger.info(
        "%d queries and %d database images to learn from", len(data.training.queries), len(data.training.database)
    )
    device = device_of("cpu" if nocuda else "auto")
    return settings, data, ColourImages((settings.width, settings.height), device, settings.cache_batch_size, threads)


def _require_same(path: Path, settings: Settings) -> None:
    from vpr.config import dump

    if path.exists() and path.read_text(encoding="utf-8") != dump(settings):
        raise ConfigError(f"{path}: this run has other settings; continue with those, or choose another --identifier")
