"""``vpr train``: one command per kind of network, or a config of any."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vpr.cli.common import SetOption
from vpr.cli.train import ConfigOption, DevicesOption, OutOption, OverfitOption, label, train
from vpr.cli.train_netvlad import pca, train_netvlad
from vpr.core import ConfigError

app = typer.Typer(help="Train detectors, matchers and global descriptors, and label images for it.")


@app.callback(invoke_without_command=True)
def by_config(
    context: typer.Context,
    *,
    config: Annotated[
        str | None,
        typer.Option("--config", metavar="NAME|FILE", help="A TOML file, or a training config of `vpr config list`."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for checkpoints, logs and the best weights.")] = None,
    overfit: OverfitOption = 0,
    devices: DevicesOption = 1,
    overrides: SetOption = None,
) -> None:
    """Train from a config, or by kind: `vpr train superpoint --out OUT`. An interrupted training continues."""
    if context.invoked_subcommand is not None:
        return
    if config is None or out is None:
        raise ConfigError("vpr train needs a kind (superpoint, matcher, descriptor, ...) or --config, and --out")
    train(config, out, overfit, devices, overrides)


@app.command()
def superpoint(
    *,
    out: OutOption,
    config: ConfigOption = "superpoint",
    overfit: OverfitOption = 0,
    devices: DevicesOption = 1,
    overrides: SetOption = None,
) -> None:
    """Train SuperPoint on images that `vpr train label` has labelled."""
    train(config, out, overfit, devices, overrides)


@app.command()
def magicpoint(
    *,
    out: OutOption,
    config: ConfigOption = "magicpoint",
    overfit: OverfitOption = 0,
    devices: DevicesOption = 1,
    overrides: SetOption = None,
) -> None:
    """Train MagicPoint on synthetic shapes."""
    train(config, out, overfit, devices, overrides)


@app.command()
def matcher(
    *,
    out: OutOption,
    config: ConfigOption = "superglue",
    overfit: OverfitOption = 0,
    devices: DevicesOption = 1,
    overrides: SetOption = None,
) -> None:
    """Train SuperGlue (or, with --config, LightGlue) on the features of any extractor."""
    train(config, out, overfit, devices, overrides)


@app.command()
def descriptor(
    *,
    out: OutOption,
    config: ConfigOption = "global",
    overfit: OverfitOption = 0,
    devices: DevicesOption = 1,
    overrides: SetOption = None,
) -> None:
    """Train a global descriptor on places."""
    train(config, out, overfit, devices, overrides)


app.command("netvlad")(train_netvlad)
app.command("pca")(pca)
app.command("label")(label)
