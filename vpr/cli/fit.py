"""``vpr fit``: a vocabulary and whitening for VLAD, to be used on other data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vpr.cli.common import ConfigOption, SetOption, say, settings_of
from vpr.core import ConfigError


def fit(
    images: Annotated[Path, typer.Option(help="Folder of images to fit on, at any depth.")],
    out: Annotated[Path, typer.Option(help="The model to write, a .safetensors file.")],
    features: Annotated[Path, typer.Option(help="Folder for the features of these images.")],
    config: ConfigOption = None,
    overrides: SetOption = None,
) -> None:
    """Fit the vocabulary and PCA whitening of VLAD, a global descriptor of local features, on a folder of images.

    Elsewhere it is used with --set joined.descriptor.weights=FILE where VLAD is joined with another descriptor, as by
    default, or with --set global_descriptor.weights=FILE where it stands by itself, as in --config superpoint_vlad.
    """
    from vpr.build import aggregation, build_extractor, fit_aggregator
    from vpr.datasets.folders import read_image_folder
    from vpr.features.feature_set import FeatureFolders
    from vpr.features.masks import read_masks
    from vpr.weights import features_of

    settings = settings_of(config, overrides)
    section = "global_descriptor" if settings.joined is None else "joined.descriptor"
    vlad = aggregation(settings)
    if vlad is None:
        raise ConfigError(
            f"global_descriptor.method = {settings.global_descriptor.method!r} has nothing to fit; "
            "choose --config superpoint_vlad"
        )
    settings = settings.model_copy(update={"global_descriptor": vlad, "joined": None})
    extractor = build_extractor(settings)
    database = read_image_folder(images)
    masks = read_masks(settings.images.masks, database, settings.local_features)
    found = extractor.extract(database, FeatureFolders.under(features), masks=masks)
    assert found.local_store is not None and extractor.local is not None
    model = fit_aggregator(settings, found.local_store)
    out.parent.mkdir(parents=True, exist_ok=True)
    trained_for = features_of(settings.local_features, extractor.local.dim, extractor.local.weights)
    model.save(out, half=True, trained_for=trained_for.model_dump())
    say(f"{model.dim} dimensions, fitted on {len(found.images)} images: {out}")
    say(f"use it with --set {section}.weights={out}")
