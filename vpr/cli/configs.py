"""``vpr config``: see the settings in force."""

from __future__ import annotations

import typer

from vpr import config
from vpr.cli.common import ConfigOption, SetOption, say, settings_of, shipped_configs

app = typer.Typer(help="Settings: show those in force, list the configs that come with vpr.", no_args_is_help=True)


@app.command()
def show(chosen: ConfigOption = None, overrides: SetOption = None) -> None:
    """Print every setting in force as TOML; redirect it to a file to make a config of your own."""
    say(config.dump(settings_of(chosen, overrides)).rstrip())


@app.command("list")
def list_() -> None:
    """Print the configs that come with vpr, each with its first comment line."""
    training = {f"train_{name}": path for name, path in shipped_configs("train").items()}
    for name, path in {**shipped_configs("run"), **training}.items():
        first = path.read_text(encoding="utf-8").splitlines()[0]
        say(f"{name:32} {first.removeprefix('#').strip()}")
