"""Parts of every command: options, settings, and error messages.

The commands import what they need when they run, so that ``--help`` answers at once.
"""

from __future__ import annotations

import errno
import inspect
import logging
import os
import shlex
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn, get_type_hints

import typer
from pydantic import TypeAdapter, ValidationError
from tqdm.contrib.logging import logging_redirect_tqdm

from vpr import config
from vpr.config import config_path
from vpr.core import ConfigError, VprError
from vpr.toml_text import typed_value

if TYPE_CHECKING:
    from vpr.settings import Settings

ConfigOption = Annotated[
    str | None,
    typer.Option(
        "--config",
        metavar="NAME|FILE",
        help="Settings: a TOML file, or the name of one that comes with vpr (`vpr config list`).",
    ),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Override one setting; may be repeated."),
]
RadiusOption = Annotated[
    float, typer.Option(help="A database image within this distance, in metres, is a positive.", min=0)
]


BadImageOption = Annotated[
    Literal["skip", "fail"] | None,
    typer.Option("--on-bad-image", help="Skip images that cannot be read, with a warning, or fail at the first."),
]


def with_bad_images(overrides: Sequence[str] | None, on_bad_image: str | None) -> list[str]:
    """Overrides of settings, with what is to be done with images that cannot be read."""
    return [*(overrides or []), *([f"images.on_bad_image={on_bad_image}"] if on_bad_image else [])]


def settings_of(chosen: str | None, overrides: Sequence[str] | None) -> Settings:
    """The settings in force; see ``vpr.config.load`` for where they come from."""
    from vpr.settings import Settings

    return config.load(Settings, None if chosen is None else config_path(chosen), overrides or ())


def call_with(function: Callable[..., Any], assignments: Sequence[str], what: str) -> Any:
    """Call a function with arguments given as ``name=value``, each converted to the type the function declares."""
    hints = get_type_hints(function)
    names = list(inspect.signature(function).parameters)
    arguments: dict[str, Any] = {}
    for assignment in assignments:
        name, separator, text = assignment.partition("=")
        if not separator or name not in names:
            raise ConfigError(f"{what} takes NAME=VALUE with the names {', '.join(names)}; got {assignment!r}")
        try:
            arguments[name] = TypeAdapter(hints[name]).validate_python(typed_value(text, hints[name]))
        except ValidationError as error:
            raise ConfigError(f"{what}: {name}={text}: {error.errors()[0]['msg']}") from None
    missing = [
        name
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.default is inspect.Parameter.empty and name not in arguments
    ]
    if missing:
        raise ConfigError(f"{what} also needs {', '.join(f'{name}=...' for name in missing)}")
    return function(**arguments)


def say(text: str) -> None:
    """A result of a command, on standard output."""
    typer.echo(text)


def command_line() -> str:
    return shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])


# Options of every command, wherever they stand; typer would take them before the command alone.
GLOBAL_OPTIONS = {
    "--debug": "debug",
    "--verbose": "verbose",
    "-v": "verbose",
    "--quiet": "quiet",
    "-q": "quiet",
}
EPILOG = "Every command takes --verbose (-v), --quiet (-q), and --debug, which shows where an error comes from."


def guarded(app: Callable[[], Any]) -> None:
    """Run a command with logging on.

    An error that the user can correct ends it with one sentence and status 1; one that is a defect of vpr says so, with
    status 2. With --debug both show where they come from.
    """
    chosen = {GLOBAL_OPTIONS[word] for word in sys.argv[1:] if word in GLOBAL_OPTIONS}
    sys.argv[1:] = [word for word in sys.argv[1:] if word not in GLOBAL_OPTIONS]
    level = logging.WARNING if "quiet" in chosen else logging.DEBUG if "verbose" in chosen else logging.INFO
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    logging.getLogger("vpr").setLevel(level)
    logging.getLogger("faiss").setLevel(logging.WARNING)  # tells at INFO how it was loaded
    os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")  # what matters is reported with the image's name
    try:
        with logging_redirect_tqdm():
            app()
    except (VprError, OSError, MemoryError) as error:
        if "debug" in chosen:
            traceback.print_exc()
        text = explanation(error)
        if text is None:
            _report_defect(error, "debug" in chosen)
        typer.echo(f"error: {text}", err=True)
        raise SystemExit(1) from None
    except Exception as error:  # what no command expects
        _report_defect(error, "debug" in chosen)


def explanation(error: BaseException) -> str | None:
    """Returns what the user can do about an error, as one sentence; None if it is a defect of vpr."""
    if isinstance(error, VprError):
        return str(error)
    if isinstance(error, MemoryError):
        return "out of memory; close other programs, or choose a smaller index, batch or image size"
    if isinstance(error, OSError) and error.errno in _USERS_ERRORS:
        where = error.filename or "writing"  # the system names no file where a disk is full
        return f"{where}: {error.strerror or error}"
    return None


# What a user can correct: a full disk, a folder that may not be written, a file in the place of a folder.
_USERS_ERRORS = {
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.ENOENT,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.EEXIST,
    errno.ENAMETOOLONG,
    errno.EMFILE,
    errno.EFBIG,
    errno.EPIPE,
    errno.ENXIO,
    errno.EIO,
}


def _report_defect(error: BaseException, debug: bool) -> NoReturn:
    if debug:
        traceback.print_exc()
    hint = "" if debug else "; run the command again with --debug and send what it prints"
    typer.echo(f"error: this is a defect of vpr, not of your input: {type(error).__name__}: {error}{hint}", err=True)
    raise SystemExit(2) from None
