"""Folders of features for feature_match.py: those that vpr makes, and the .npy files that Patch-NetVLAD makes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from vpr.cli.patchnetvlad_files import fetch_absent_weights
from vpr.core import ConfigError, DataError

if TYPE_CHECKING:
    from vpr.build import Engine
    from vpr.core import ImageSet
    from vpr.features.feature_set import FeatureSet
    from vpr.settings import Settings


def engine_for(settings: Settings, folders: tuple[Path, Path], *, retrieves: bool) -> Engine:
    """The methods for matching; without those that extract, and their weights, for folders that Patch-NetVLAD made."""
    from vpr.build import build, compares_local
    from vpr.features.patchnetvlad_folder import PatchNetVladFolder
    from vpr.global_descriptors.netvlad import Settings as NetVladSettings
    from vpr.global_descriptors.patch_netvlad import Settings as PatchNetVladSettings

    made_by_it = [PatchNetVladFolder.lies_in(folder) for folder in folders]
    if not any(made_by_it):
        fetch_absent_weights(settings)
        return build(settings, retrieves=retrieves)
    if not all(made_by_it):
        theirs, ours = folders if made_by_it[0] else folders[::-1]
        raise DataError(f"{theirs} holds Patch-NetVLAD's .npy files, {ours} does not; extract both with one program")
    if not isinstance(settings.global_descriptor, NetVladSettings | PatchNetVladSettings) or compares_local(settings):
        raise ConfigError(
            f"{folders[0]} holds Patch-NetVLAD's features, and the config compares others; choose one of its configs, "
            "for instance --config_path patch_netvlad_performance"
        )
    return build(settings, retrieves=retrieves, extracts=False)


def open_features(engine: Engine, images: ImageSet, folder: Path) -> FeatureSet:
    """The features that the folder holds, of either program. Raises DataError if they are not those of the images."""
    from vpr.build import compares_patches
    from vpr.features.feature_set import FeatureFolders, FeatureSet
    from vpr.features.patchnetvlad_folder import PatchNetVladFolder
    from vpr.global_descriptors.patch_netvlad import Settings as PatchNetVladSettings

    if not PatchNetVladFolder.lies_in(folder):
        return engine.extractor.open(images, FeatureFolders.under(folder))
    chosen = engine.settings.global_descriptor
    patches = compares_patches(engine.settings) and isinstance(chosen, PatchNetVladSettings)
    grids = chosen.grids() if patches and isinstance(chosen, PatchNetVladSettings) else ()
    size = chosen.size if isinstance(chosen, PatchNetVladSettings) else (0, 0)
    found = PatchNetVladFolder(folder, images, grids, size)
    return FeatureSet(images, found.keys, None, found)
