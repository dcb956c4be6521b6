"""Writing files whole or not at all."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from vpr.runtime.files import write_atomically


def test_pieces_make_the_same_bytes_as_one_text(tmp_path: Path) -> None:
    write_atomically(tmp_path / "a", "é\nb\n")
    write_atomically(tmp_path / "b", iter(["é\n", "b\n"]))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes() == "é\nb\n".encode()


def test_an_error_half_way_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    def pieces() -> Iterator[str]:
        yield "new"
        raise ValueError

    (tmp_path / "a").write_text("old")
    with pytest.raises(ValueError):
        write_atomically(tmp_path / "a", pieces())
    assert [path.name for path in tmp_path.iterdir()] == ["a"] and (tmp_path / "a").read_text() == "old"


def test_a_full_disk_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The system's error of a write has no file name."""

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("vpr.runtime.files.os.fsync", full)
    with pytest.raises(OSError) as caught:
        write_atomically(tmp_path / "recalls.txt", "x")
    assert caught.value.filename == str(tmp_path / "recalls.txt")
