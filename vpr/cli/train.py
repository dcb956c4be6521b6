"""``vpr train`` (and ``train.py``): learn detectors, matchers and global descriptors; ``vpr label``: their labels."""

from __future__ import annotations

import os
import sys
import tomllib
from pathlib import Path
from typing import Annotated, Any

import typer

from vpr.cli.common import SetOption, say
from vpr.cli.training_benchmarks import NamedBenchmark, benchmarks_of
from vpr.config import config_path
from vpr.core import ConfigError, DataError

ConfigOption = Annotated[
    str,
    typer.Option("--config", metavar="NAME|FILE", help="A TOML file, or a training config of `vpr config list`."),
]
OutOption = Annotated[Path, typer.Option(help="Folder for checkpoints, logs and the best weights.")]
OverfitOption = Annotated[
    int, typer.Option(help="See only this many batches: a check that the task can be learned at all.")
]
PretrainedOption = Annotated[
    str | None,
    typer.Option("--pretrained", metavar="NAME|FILE", help="Weights to begin with; the same as --set task.start=."),
]
BenchmarksOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME=PATH",
        help="After each validation, a benchmark of `vpr evaluate` on the weights, such as pose-folder=FOLDER; may be "
        "repeated. Figures go into benchmark.csv and TensorBoard.",
    ),
]
BenchmarkPairsOption = Annotated[
    int | None, typer.Option(help="Only the first pairs of each benchmark, this many.", min=1)
]
DevicesOption = Annotated[int, typer.Option(help="GPUs, or processes on a CPU; more than one needs torchrun.", min=1)]


def train(
    config: ConfigOption,
    out: OutOption,
    overfit: OverfitOption = 0,
    devices: DevicesOption = 1,
    overrides: SetOption = None,
    *,
    pretrained: PretrainedOption = None,
    run_benchmarks: BenchmarksOption = None,
    benchmark_pairs: BenchmarkPairsOption = None,
) -> None:
    """Train from a config; started again after an interruption, it continues at its last checkpoint.

    With more train.steps than before it goes on from there.
    """
    if devices > 1 and "WORLD_SIZE" not in os.environ:
        _start_again_with_torchrun(devices)
    from vpr import config as configuration
    from vpr.runtime.device import device_of
    from vpr.runtime.files import write_atomically
    from vpr.training import distributed, loop
    from vpr.training.tasks import Settings, build

    if pretrained:
        overrides = [*(overrides or []), f"task.start={pretrained}"]
    if overfit:
        overrides = [*(overrides or []), f"train.overfit={overfit}"]
    settings = configuration.load(Settings, config_path(config, "train"), overrides or ())
    chosen = [NamedBenchmark.of(text) for text in run_benchmarks or ()]
    benchmarks = benchmarks_of(chosen, settings.task, out, benchmark_pairs) if chosen else None
    with distributed.group(device_of(settings.device)) as device:
        task = build(settings)  # what cannot start leaves no settings behind
        out.mkdir(parents=True, exist_ok=True)
        text = configuration.dump(settings)
        if distributed.is_first():
            _require_same(out / "settings.toml", text)
            write_atomically(out / "settings.toml", text)
        best = loop.train(task, settings.train, out, device, benchmarks)
    if distributed.is_first():
        say(f"Best weights: {best}")


def label(
    *,
    images: Annotated[Path, typer.Option(help="Folder of photographs.")],
    out: Annotated[Path, typer.Option(help="Folder for the labels.")],
    weights: Annotated[
        str, typer.Option(help="MagicPoint's or SuperPoint's weights, by name or path; or corners, for plain corners.")
    ] = "corners",
    width: Annotated[int, typer.Option(help="Images are brought to this width; a multiple of 8.", min=8)] = 320,
    height: Annotated[int, typer.Option(help="And to this height; a multiple of 8.", min=8)] = 240,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    overrides: SetOption = None,
) -> None:
    """Find the points of photographs by homographic adaptation, as labels to train SuperPoint with.

    --set warps=100 and the like change how; an interrupted run continues.
    """
    from torch import nn

    from vpr import config as configuration
    from vpr.config import fingerprint, plain
    from vpr.core import Origin
    from vpr.local_features.superpoint_network import SuperPointNetwork
    from vpr.runtime.device import device_of
    from vpr.training import adaptation
    from vpr.training.corners import Corners
    from vpr.training.grey_images import GreyImages
    from vpr.weights import load_published

    if width % 8 or height % 8:
        raise ConfigError(f"{width} x {height}: both have to be multiples of 8")
    settings = configuration.load(adaptation.Settings, None, overrides or ())
    network: nn.Module = Corners()
    digest = ""
    if weights != "corners":
        network = learned = SuperPointNetwork()
        digest = load_published(learned, weights, learned.convert_state_dict)
    photographs = GreyImages(images, (width, height))
    parts = {"adaptation": settings, "detector": digest or weights, "size": [width, height]}
    origin = Origin(adaptation.KIND, fingerprint(parts), digest, plain(parts))
    unreadable = adaptation.label(photographs, network, out, origin, settings=settings, device=device_of(device))
    counts = [len(points) for points in adaptation.read_labels(out, photographs.names)]
    labelled = len(counts) - unreadable
    if not labelled:
        raise DataError(f"{images}: not one of {len(counts)} photographs can be read; the log names them")
    left_out = f" ({unreadable} more cannot be read)" if unreadable else ""
    say(f"{labelled} photographs{left_out}, {sum(counts) / labelled:.0f} points each: {out}")


def _require_same(path: Path, text: str) -> None:
    """Raise ConfigError if a folder's run has other settings; the number of steps may differ."""
    if path.exists() and _without_steps(path.read_text(encoding="utf-8")) != _without_steps(text):
        raise ConfigError(
            f"{path}: the run in this folder has other settings; continue with those, or choose another folder"
        )


def _without_steps(text: str) -> dict[str, Any]:
    values = tomllib.loads(text)
    values["train"].pop("steps")
    return values


def _start_again_with_torchrun(devices: int) -> None:
    """Replace this process by torchrun, which starts one process per device with the same arguments."""
    program = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={devices}"]
    os.execv(sys.executable, [*program, *_own_command()])


def _own_command() -> list[str]:
    script = Path(sys.argv[0])
    return [str(script), *sys.argv[1:]] if script.suffix == ".py" else ["-m", "vpr", *sys.argv[1:]]
