"""``vpr train``: one command per kind of network, or a config of any."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from vpr.cli.common import SetOption
from vpr.cli.train import (
    BenchmarkPairsOption,
    BenchmarksOption,
    ConfigOption,
    DevicesOption,
    OutOption,
    OverfitOption,
    PretrainedOption,
    label,
    train,
)
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
    pretrained: PretrainedOption = None,
) -> None:
    """Train from a config, or by kind: `vpr train superpoint --out OUT`. An interrupted training continues."""
    if context.invoked_subcommand is not None:
        return
    if config is None or out is None:
        raise ConfigError("vpr train needs a kind (superpoint, matcher, descriptor, ...) or --config, and --out")
    train(config, out, overfit, devices, overrides, pretrained=pretrained)


def _trainer(usual: str) -> Callable[..., None]:
    """A command that trains from one config unless another is given."""

    def command(
        *,
        out: OutOption,
        config: ConfigOption = usual,
        overfit: OverfitOption = 0,
        devices: DevicesOption = 1,
        overrides: SetOption = None,
        pretrained: PretrainedOption = None,
    ) -> None:
        train(config, out, overfit, devices, overrides, pretrained=pretrained)

    return command


def matcher(
    *,
    out: OutOption,
    method: Annotated[
        str, typer.Option(help="superglue, lightglue, imp, eimp or gluestick; the same as --set task.network=NAME.")
    ] = "superglue",
    config: Annotated[
        str,
        typer.Option("--config", metavar="NAME|FILE", help="A TOML file, or a training config of `vpr config list`."),
    ] = "",
    dump: Annotated[
        Path | None,
        typer.Option(help="Learn from this folder of `vpr dump`, or of IMP's; the same as task.dump.folder."),
    ] = None,
    overfit: OverfitOption = 0,
    devices: DevicesOption = 1,
    overrides: SetOption = None,
    pretrained: PretrainedOption = None,
    run_benchmarks: BenchmarksOption = None,
    benchmark_pairs: BenchmarkPairsOption = None,
) -> None:
    """Train SuperGlue, LightGlue, IMP and EIMP on the features of any extractor, or GlueStick on SuperPoint's."""
    chosen = {"superglue": "superglue", "lightglue": "superglue", "imp": "imp", "eimp": "imp", "gluestick": "gluestick"}
    if method not in chosen:
        raise ConfigError(f"--method {method}: expected one of {', '.join(chosen)}")
    given = [] if config and method == "superglue" else [f"task.network={method}"]
    if dump is not None:
        given.append(f"task.dump.folder={dump}")
    usual = chosen[method] if dump is None else f"{chosen[method]}_dump"
    train(
        config or usual,
        out,
        overfit,
        devices,
        [*given, *(overrides or [])],
        pretrained=pretrained,
        run_benchmarks=run_benchmarks,
        benchmark_pairs=benchmark_pairs,
    )


for kind, usual, text in (
    ("superpoint", "superpoint", "Train SuperPoint on images that `vpr train label` has labelled."),
    ("segmentation", "segmentation", "Train a segmentation head on SuperPoint's backbone, or all three heads."),
    ("magicpoint", "magicpoint", "Train MagicPoint on synthetic shapes."),
    ("descriptor", "global", "Train a global descriptor on places."),
):
    app.command(kind, help=text)(_trainer(usual))
app.command("matcher")(matcher)
app.command("netvlad")(train_netvlad)
app.command("pca")(pca)
app.command("label")(label)
