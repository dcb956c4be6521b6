"""The command line: the only place that reads arguments, sets up logging and chooses a device."""

from __future__ import annotations

import sys
from typing import Any

import typer
from typer.core import TyperGroup

from vpr.cli import configs, dataset_commands, dump, exports, ground_truth, map, models, patchnetvlad, training
from vpr.cli.benchmark import SeveralValues, benchmark
from vpr.cli.common import EPILOG, guarded
from vpr.cli.compare import compare
from vpr.cli.demo import demo_city, demo_labels, demo_places
from vpr.cli.evaluate import evaluate
from vpr.cli.fit import fit
from vpr.cli.frames import frames
from vpr.cli.inspect import inspect
from vpr.cli.match_pairs import match_pairs
from vpr.cli.match_two import match_two
from vpr.cli.on_ray import RayCommand
from vpr.cli.rank import rank
from vpr.cli.report import report
from vpr.cli.run import run
from vpr.cli.serve import serve
from vpr.cli.train import label
from vpr.cli.train import train as train_command
from vpr.cli.train_netvlad import pca, train_netvlad


class _Commands(TyperGroup):
    """Commands whose names may be written with underscores, as the scripts of Patch-NetVLAD are."""

    def get_command(self, ctx: Any, cmd_name: str) -> Any:  # the types are click's, which some typer has inside
        return super().get_command(ctx, cmd_name.replace("_", "-"))


app = typer.Typer(
    cls=_Commands,
    help="Two-stage visual place recognition: retrieve with global descriptors, re-rank with local features.",
    epilog=EPILOG,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
app.command(cls=RayCommand)(run)
app.command()(report)
app.command()(compare)
app.command()(inspect)
app.command(cls=SeveralValues)(benchmark)
app.command("match-two")(match_two)
app.command("match-pairs", no_args_is_help=True)(match_pairs)
app.command("rank", cls=RayCommand, no_args_is_help=True)(rank)
app.command("demo-city")(demo_city)
app.command("demo-places")(demo_places)
app.command("demo-labels")(demo_labels)
app.command("fit")(fit)
app.command()(frames)
app.add_typer(training.app, name="train")
app.command("train-netvlad", hidden=True)(train_netvlad)
app.command("pca", hidden=True)(pca)
app.command("label", hidden=True)(label)
app.command("feature-extract")(patchnetvlad.feature_extract)
app.command("feature-match")(patchnetvlad.feature_match)
app.command("add-pca", hidden=True)(pca)
app.command("download-models", hidden=True)(patchnetvlad.download_models)
app.command("evaluate", no_args_is_help=True)(evaluate)
app.add_typer(map.app, name="map")
app.command(no_args_is_help=True)(serve)
app.add_typer(exports.app, name="export")
app.add_typer(dump.app, name="dump")
app.add_typer(ground_truth.app, name="gt")
app.add_typer(dataset_commands.app, name="datasets")
app.add_typer(dataset_commands.app, name="dataset", hidden=True)
app.add_typer(configs.app, name="config")
app.add_typer(models.app, name="models")


def main() -> None:
    """The command ``vpr``."""
    guarded(app)


def feature_extract() -> None:
    """The script ``feature_extract.py``."""
    guarded(lambda: typer.run(patchnetvlad.feature_extract))


def feature_match() -> None:
    """The script ``feature_match.py``."""
    guarded(lambda: typer.run(patchnetvlad.feature_match))


def train() -> None:
    """The script ``train.py``; Patch-NetVLAD's flags are told by the one that its users always give."""
    published = any(word.startswith("--dataset_root_dir") for word in sys.argv)
    guarded(lambda: typer.run(train_netvlad if published else train_command))
