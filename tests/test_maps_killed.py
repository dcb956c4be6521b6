"""A writer of a map that is killed at any moment leaves a state that was committed, and the next goes on from there."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from maps import SMALL, view, write_images

from vpr.core import DataError
from vpr.maps import Map, writing
from vpr.maps.local_codec import PROFILES
from vpr.maps.manifest import Manifest
from vpr.maps.sources import read_images
from vpr.settings import configured

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no kill -9 there")

REMOVED = {"001.png", "006.png"}


def states() -> list[set[str]]:
    """What the map may hold after some of the commits of ``change``."""
    names = [f"{place:03d}.png" for place in range(8)]
    grown = [set(names[:count]) for count in range(0, 9, 2)]
    return [*grown, grown[-1] - REMOVED]


def committed(held: set[str]) -> bool:
    """Whether these are the images after some commits of one ``change``, or of one that began at the end of another."""
    return held in states() or states()[-1] <= held


def change(folder: Path, images: Path, more: Path) -> None:
    """Create, add, remove and compact: a commit for every two images."""
    held = Map.begin(folder, configured(None, SMALL))
    for source in (images, more):
        root, placed = read_images(source, "none")
        with writing.writing(folder) as manifest:
            how: Any = {"engine": held.engine, "profile": PROFILES["default"], "segment_images": 2}
            writing.add(manifest, folder, placed, root, **how)
    held.remove(where="name IN ('001.png', '006.png')")
    held.compact()
    held.close()


def change_and_die(folder: Path, images: Path, more: Path, moment: int) -> None:
    """``change``, killed at the n-th time that it touches the disk; ends well if there are fewer."""
    left = [moment]

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*arguments, **named)

        return call

    inner = Manifest.writing

    @contextmanager
    def transaction(self: Manifest) -> Iterator[None]:
        counted(lambda: None)()
        with inner(self):
            yield
            counted(lambda: None)()
        counted(lambda: None)()

    Manifest.writing = transaction  # type: ignore[method-assign]
    os.fsync, os.replace = counted(os.fsync), counted(os.replace)
    shutil.rmtree = counted(shutil.rmtree)  # type: ignore[assignment]
    change(folder, images, more)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    root = tmp_path_factory.mktemp("pictures")
    return write_images(root / "images", range(4)), write_images(root / "more", range(4, 8))


@pytest.fixture(scope="module")
def processes() -> Any:
    """Children that have everything imported and nothing running."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["vpr.maps"])
    return context


@pytest.mark.parametrize("moment", [1, 4, 11, 19, 31, 38, 44, 50])
def test_killed_at(moment: int, tmp_path: Path, pictures: tuple[Path, Path], processes: Any) -> None:
    folder = tmp_path / "city"
    child = processes.Process(target=change_and_die, args=(folder, *pictures, moment))
    child.start()
    child.join(120)
    assert child.exitcode == -signal.SIGKILL, "the change ended before the moment: choose an earlier one"
    assert committed(what_lies_in(folder))
    change(folder, *pictures)
    held = Map(folder)
    assert what_lies_in(folder) == states()[-1] and held.info().segments == 1
    assert held.locate(view(3, 6)).candidates[0].name == "003.png"


def what_lies_in(folder: Path) -> set[str]:
    """Names of the images; none before the first commit. Fails if a byte is not as it was written."""
    try:
        held = Map(folder)
    except DataError as error:
        assert "no map lies here" in str(error) or "has no image yet" in str(error)
        return set()
    assert held.verify() == []
    names = {image.name for image in held.images()}
    held.close()
    return names
