"""``vpr config``: see the settings in force."""

from __future__ import annotations

import typer

from vpr import config
from vpr.cli.common import ConfigOption, SetOption, say
from vpr.config import config_path, shipped_configs

app = typer.Typer(help="Settings: show those in force, list the configs that come with vpr.", no_args_is_help=True)


@app.command()
def show(chosen: ConfigOption = None, overrides: SetOption = None) -> None:
    """Print every setting in force as TOML, and where its value comes from; redirect it to a file of your own.

    The source is the default, the recipe of the chosen weights, a config, or --set.
    """
    from vpr.settings import Settings

    path = None if chosen is None else config_path(chosen)
    say(config.dump(*config.load_with_sources(Settings, path, overrides or ())).rstrip())


@app.command("list")
def list_() -> None:
    """Print the configs that come with vpr, each with its first comment line."""
    training = {f"train_{name}": path for name, path in shipped_configs("train").items()}
    for name, path in {**shipped_configs("run"), **training}.items():
        first = path.read_text(encoding="utf-8").splitlines()[0]
        say(f"{name:32} {first.removeprefix('#').strip()}")
