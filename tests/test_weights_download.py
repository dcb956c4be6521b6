"""Fetching weights from a server on this machine that behaves well and badly."""

from __future__ import annotations

import fcntl
import hashlib
import os
import pickle
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from weights_server import BODY, Site, checkpoint, serve

from vpr.weights import WeightsError, read_checkpoint
from vpr.weights.download import fetch
from vpr.weights.finding import read_record


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setenv("VPR_MODELS", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "*")
    with serve() as made:
        yield made


def files(tmp_path: Path) -> set[str]:
    return {path.name for path in (tmp_path / "cache").iterdir()}


def test_a_file_arrives_and_is_recorded(site: Site, tmp_path: Path) -> None:
    path = fetch(site.entry())
    assert path == tmp_path / "cache" / "one.pth" and path.read_bytes() == BODY
    assert files(tmp_path) == {"one.pth", "recorded.toml"}
    assert read_record() == {"one": hashlib.sha256(BODY).hexdigest()}
    assert "Range" not in site.asked[0] and site.asked[0]["User-Agent"] == "vpr"
    assert fetch(site.entry()) == path and len(site.asked) == 1


def test_a_cut_transfer_is_continued(site: Site, tmp_path: Path) -> None:
    site.cut = [70_000, 30_000]
    for arrived in (70_000, 100_000):
        with pytest.raises(
            WeightsError, match=rf"broke off \({arrived} of {len(BODY)} bytes arrived\); run the command again"
        ):
            fetch(site.entry())
        assert files(tmp_path) == {".one.pth.part", ".one.pth.part.etag"}
    assert fetch(site.entry()).read_bytes() == BODY
    assert [each.get("Range") for each in site.asked] == [None, "bytes=70000-", "bytes=100000-"]
    assert files(tmp_path) == {"one.pth", "recorded.toml"}


def cut_once(site: Site) -> None:
    site.cut = [70_000]
    with pytest.raises(WeightsError, match="broke off"):
        fetch(site.entry())


def test_a_server_without_ranges_starts_again(site: Site) -> None:
    site.ranges = False
    cut_once(site)
    assert fetch(site.entry()).read_bytes() == BODY


def test_another_version_starts_again(site: Site) -> None:
    cut_once(site)
    site.body, site.etag = checkpoint(2.0), '"second"'
    assert fetch(site.entry()).read_bytes() == site.body


def test_without_a_version_nothing_is_continued(site: Site) -> None:
    site.etag = ""
    cut_once(site)
    assert fetch(site.entry()).read_bytes() == BODY
    assert "Range" not in site.asked[1]


def test_a_whole_file_that_was_not_moved_is_fetched_anew(site: Site, tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / ".one.pth.part").write_bytes(BODY)
    (tmp_path / "cache" / ".one.pth.part.etag").write_text(site.etag)
    assert fetch(site.entry()).read_bytes() == BODY
    assert [each.get("Range") for each in site.asked] == [f"bytes={len(BODY)}-", None]


def test_the_wrong_part_is_refused(site: Site) -> None:
    cut_once(site)
    site.shift = 5
    with pytest.raises(WeightsError, match="the server sent byte 70005 onwards, asked for 70000"):
        fetch(site.entry())
    assert fetch(site.entry()).read_bytes() == BODY


@pytest.mark.parametrize("status", [404, 500])
def test_an_answer_that_is_an_error(site: Site, tmp_path: Path, status: int) -> None:
    site.status = status
    with pytest.raises(
        WeightsError, match=rf"one.pth: the server answers {status} .*; try later, or put one.pth into .*cache"
    ):
        fetch(site.entry())
    assert "one.pth" not in files(tmp_path)


def test_redirections_are_followed_with_the_range(site: Site) -> None:
    site.location = f"http://127.0.0.1:{site.port}/moved"
    cut_once(site)
    assert fetch(site.entry()).read_bytes() == BODY
    assert [each.get("Range") for each in site.asked] == [None, None, "bytes=70000-", "bytes=70000-"]


@pytest.mark.parametrize("target", ["http://example.invalid/one.pth", "ftp://example.invalid/one.pth"])
def test_a_redirection_that_is_not_encrypted_is_refused(site: Site, target: str) -> None:
    site.location = target
    with pytest.raises(WeightsError, match=rf"{target}: not encrypted.*only https is fetched"):
        fetch(site.entry())


@pytest.mark.parametrize("url", ["http://example.invalid/a", "ftp://127.0.0.1/a", "file:///etc/passwd", "a"])
def test_only_https_is_fetched(site: Site, tmp_path: Path, url: str) -> None:
    with pytest.raises(WeightsError, match=rf"{url}: not encrypted, so anybody"):
        fetch(site.entry(url=url))
    assert not (tmp_path / "cache").exists()


def test_a_wrong_hash_deletes_the_file(site: Site, tmp_path: Path) -> None:
    with pytest.raises(
        WeightsError, match=rf"sha256 {hashlib.sha256(BODY).hexdigest()}, the published file 0+; it is deleted"
    ):
        fetch(site.entry(sha256="0" * 64))
    assert files(tmp_path) == set()


@pytest.mark.parametrize(
    ("body", "reason"), [(b"<html>log in</html>", "a web page"), (BODY[:-100], "damaged"), (b"", "it is empty")]
)
def test_what_is_no_file_of_weights_is_deleted(site: Site, tmp_path: Path, body: bytes, reason: str) -> None:
    site.length, site.cut = len(body), [len(body)]
    site.body = body or BODY
    with pytest.raises(WeightsError, match=rf"http.*one.pth: deleted what came: .*{reason}"):
        fetch(site.entry())
    assert files(tmp_path) == set()


def test_code_is_deleted_and_not_run(site: Site, tmp_path: Path) -> None:
    class Hostile:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(tmp_path / "trap"),)

    site.body = pickle.dumps(Hostile(), protocol=2)
    with pytest.raises(WeightsError, match=r"deleted what came: a pickle that holds posix.mkdir"):
        fetch(site.entry())
    assert files(tmp_path) == set() and not (tmp_path / "trap").exists()


def test_a_length_too_long_is_a_cut(site: Site) -> None:
    site.length = len(BODY) + 1
    with pytest.raises(WeightsError, match=f"{len(BODY)} of {len(BODY) + 1} bytes arrived"):
        fetch(site.entry())


def test_without_a_length_only_a_hash_can_tell(site: Site) -> None:
    site.length = None
    with pytest.raises(WeightsError, match="does not say how long the file is"):
        fetch(site.entry())
    assert fetch(site.entry(sha256=hashlib.sha256(BODY).hexdigest())).read_bytes() == BODY


def test_a_server_that_cannot_be_reached(site: Site) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/one.pth"
        with pytest.raises(WeightsError, match=r"cannot be reached .*try later, or put one.pth into .*cache by hand"):
            fetch(site.entry(url=url))


def test_a_server_that_falls_silent(site: Site) -> None:
    site.stall_s = 0.5
    with pytest.raises(WeightsError, match=r"one.pth: the transfer broke off|one.pth: cannot be reached .*timed out"):
        fetch(site.entry(), timeout_s=0.1)


def test_two_do_not_fetch_one_file_at_once(site: Site, tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    with (tmp_path / "cache" / ".one.pth.part").open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(WeightsError, match="another process is fetching this file"):
            fetch(site.entry())
    assert read_checkpoint(fetch(site.entry())).keys() == {"a"}
