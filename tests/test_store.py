"""The feature store: what is written comes back, other settings are refused, and a kill at any moment costs nothing."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import features

from vpr.config import load
from vpr.core import DataError, ImageError, ImageSet, LocalFeatures, Origin
from vpr.features.extraction import Extraction, aggregate, extract_global, extract_local
from vpr.features.shards import ShardFolder, read_origin
from vpr.features.store import GlobalStore, LocalStore
from vpr.global_descriptors.thumbnail import Settings as ThumbnailSettings
from vpr.global_descriptors.thumbnail import Thumbnail
from vpr.local_features.rootsift import RootSift
from vpr.local_features.rootsift import Settings as RootSiftSettings
from vpr.settings import Settings
from vpr.sides import extract

ORIGIN = Origin("local features", "abc", "names", settings={"local_features": {"longest_side": 640}})
HOW = Extraction(batch_size=3, shard_size=5)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def extracted(images: ImageSet, folder: Path, how: Extraction = HOW, origin: Origin = ORIGIN) -> LocalStore:
    return extract_local(images, RootSift(RootSiftSettings()), folder, origin, how)


def test_every_image_gets_its_own_features_back(image_set: ImageSet, tmp_path: Path) -> None:
    store = extracted(image_set, tmp_path / "store", Extraction(batch_size=3, shard_size=5, dtype="float32"))
    method = RootSift(RootSiftSettings())
    from vpr.images import read_image

    for row in (0, 4, 11):
        alone = method.extract([method.preprocess(read_image(image_set.path(row), "grey"))])[0]
        stored = store[row]
        assert torch.equal(stored.points, alone.points)
        assert torch.equal(stored.descriptors, alone.descriptors)
        assert stored.image_size == alone.image_size == (120, 90)


def test_bad_and_blank_images_keep_their_rows(image_set: ImageSet, tmp_path: Path) -> None:
    store = extracted(image_set, tmp_path / "store")
    counts = [len(each) for each in store]
    assert [row for row, count in enumerate(counts) if count == 0] == [5, 9]
    assert set(store.unreadable()) == {9}
    assert "truncated" in store.unreadable()[9]
    assert store.row_of("./10.jpg") == 10
    assert store[5].image_size == (120, 90) and store[5].descriptors.shape == (0, 128)
    with pytest.raises(DataError, match=r"has no image 'x\.jpg'"):
        store.row_of("x.jpg")
    with pytest.raises(IndexError):
        store[12]


def test_a_bad_image_can_be_fatal(image_set: ImageSet, tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"09\.jpg: the image is truncated"):
        extracted(image_set, tmp_path / "store", Extraction(shard_size=5, on_bad_image="fail"))


def test_half_precision_keeps_points_exact_and_descriptors_near(image_set: ImageSet, tmp_path: Path) -> None:
    half = extracted(image_set, tmp_path / "half")
    full = extracted(image_set, tmp_path / "full", Extraction(shard_size=5, dtype="float32"))
    assert torch.equal(half[0].points, full[0].points)
    assert (half[0].descriptors - full[0].descriptors).abs().max() < 2e-4
    assert half[0].descriptors.dtype == torch.float32


@pytest.mark.parametrize(
    ("origin", "reason"),
    [
        (Origin("local features", "xyz", "names", settings={"local_features": {"longest_side": 480}}), "640 -> 480"),
        (Origin("local features", "abc", "names", weights="other"), "weights '', wanted 'other'"),
        (Origin("local features", "abc", "other names"), "another list of images"),
    ],
)
def test_a_store_of_another_origin_is_refused(image_set: ImageSet, tmp_path: Path, origin: Origin, reason: str) -> None:
    extracted(image_set, tmp_path / "store")
    with pytest.raises(DataError, match=reason):
        extracted(image_set, tmp_path / "store", origin=origin)


def test_foreign_folders_are_refused(image_set: ImageSet, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no origin\.json"):
        LocalStore(tmp_path / "absent")
    store = extracted(image_set, tmp_path / "store")
    with pytest.raises(DataError, match="holds local features, expected global descriptors"):
        GlobalStore(store.folder)
    (store.folder / "origin.json").write_text("{")
    with pytest.raises(DataError, match="damaged"):
        LocalStore(store.folder)
    (store.folder / "origin.json").unlink()
    with pytest.raises(DataError, match="shards of unknown origin"):
        extracted(image_set, store.folder)


def test_a_damaged_shard_is_named(image_set: ImageSet, tmp_path: Path) -> None:
    store = extracted(image_set, tmp_path / "store")
    shard = store.folder / "000001.safetensors"
    shard.write_bytes(shard.read_bytes()[:-100])
    with pytest.raises(DataError, match=r"000001\.safetensors: damaged or missing"):
        LocalStore(store.folder)[7]
    assert len(LocalStore(store.folder)[0])
    shard.unlink()
    extracted(image_set, store.folder)
    assert len(LocalStore(store.folder)[7])


def test_an_unfinished_store_is_not_read(image_set: ImageSet, tmp_path: Path) -> None:
    store = extracted(image_set, tmp_path / "store")
    (store.folder / "index.sqlite").unlink()
    with pytest.raises(DataError, match="interrupted; run it again"):
        LocalStore(store.folder)


def test_two_writers_do_not_meet(tmp_path: Path) -> None:
    one, other = (ShardFolder(tmp_path / "store", ORIGIN, 10, 5) for _ in range(2))
    with one.writing(), pytest.raises(DataError, match="another process is writing"), other.writing():
        pass
    with other.writing():
        pass


def test_leftovers_of_a_killed_writer_go_away(tmp_path: Path) -> None:
    folder = tmp_path / "store"
    folder.mkdir()
    (folder / ".000000.safetensors.123.tmp").write_bytes(b"half")
    with ShardFolder(folder, ORIGIN, 10, 5).writing():
        pass
    assert not list(folder.glob(".*.tmp"))


def test_many_shards_need_few_file_handles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vpr.features.store.OPEN_SHARDS", 2)
    images = ImageSet(tmp_path, tuple(f"{i}.jpg" for i in range(6)))
    store = extract_local(images, Numbers(), tmp_path / "s", ORIGIN, Extraction(shard_size=1, on_bad_image="skip"))
    assert len(list(store)) == 6
    assert len(store._open) == 2


def test_threads_may_read_at_once(image_set: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vpr.features.store.OPEN_SHARDS", 1)
    store = extracted(image_set, tmp_path / "store", Extraction(shard_size=1))
    expected = [len(each) for each in store]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(20):
            assert list(pool.map(lambda row: len(store[row]), range(12))) == expected


class Numbers:
    """A method that never gets to see an image, since there is none."""

    channels = "grey"
    dim = 4
    weights = ""

    def preprocess(self, image: np.ndarray) -> torch.Tensor:
        raise AssertionError

    def extract(self, images: Sequence[torch.Tensor]) -> list[LocalFeatures]:
        raise AssertionError


def test_global_descriptors_of_bad_images_are_zero(image_set: ImageSet, tmp_path: Path) -> None:
    origin = Origin("global descriptors", "abc", "names")
    store = extract_global(image_set, Thumbnail(ThumbnailSettings()), tmp_path / "store", origin, HOW)
    lengths = np.linalg.norm(store.matrix(), axis=1)
    assert [row for row, length in enumerate(lengths) if length < 0.5] == [5, 9]  # blank and damaged
    assert np.allclose(np.delete(lengths, [5, 9]), 1, atol=1e-3)


def test_aggregates_follow_the_rows_of_the_local_store(image_set: ImageSet, tmp_path: Path) -> None:
    class Count:
        dim = 1
        weights = ""

        def aggregate(self, features: LocalFeatures) -> np.ndarray:
            return np.array([len(features)], dtype=np.float32)

        def save(self, path: Path) -> None: ...

    local = extracted(image_set, tmp_path / "local")
    origin = Origin("global descriptors", "abc", "names")
    store = aggregate(image_set, local, Count(), tmp_path / "global", origin, threads=2)
    assert store.matrix()[:, 0].tolist() == [len(each) for each in local]
    assert store.unreadable() == local.unreadable()


# --- kill -9

EXTRACT = """
import sys
from pathlib import Path
from vpr.config import load
from vpr.datasets.folders import read_image_folder
from vpr.sides import extract
from vpr.settings import Settings
settings = load(Settings, None, ["store.shard_size=4", "store.batch_size=2", "machine.threads=2"])
print("ready", flush=True)
extract(read_image_folder(Path(sys.argv[1])), settings, Path(sys.argv[2]))
print("done", flush=True)
"""


@contextmanager
def extracting(images: Path, folder: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that is about to extract."""
    command = [sys.executable, "-c", EXTRACT, str(images), str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        yield process


def test_killed_at_ten_random_moments_the_store_is_byte_identical(image_set: ImageSet, tmp_path: Path) -> None:
    """Ten kill -9 in a row on one folder, then a run to the end; and the work of finished shards is kept."""
    images = image_set.root
    for i in range(12, 60):
        (images / f"{i:02d}.jpg").write_bytes((images / f"{i % 5:02d}.jpg").read_bytes())
    settings = load(Settings, None, ["store.shard_size=4", "store.batch_size=2"])
    from vpr.datasets.folders import read_image_folder

    started = time.perf_counter()
    extract(read_image_folder(images), settings, tmp_path / "whole")
    whole_s = time.perf_counter() - started
    moments = random.Random(7)
    kept = 0
    for _ in range(10):
        with extracting(images, tmp_path / "killed") as process:
            time.sleep(moments.uniform(0, 0.3 * whole_s))
            process.send_signal(signal.SIGKILL)
        shards = len(list((tmp_path / "killed").glob("local/*.safetensors")))
        assert shards >= kept
        kept = shards
    with extracting(images, tmp_path / "killed") as last:
        assert last.wait() == 0
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")


def test_a_kill_at_any_file_operation_leaves_a_store_that_continues(
    image_set: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stop in front of every single rename and fsync, one after the other."""
    expected = contents(extracted(image_set, tmp_path / "whole").folder)

    class Killed(BaseException):
        pass

    stopped, operation = 0, 0
    while True:
        operation += 1
        calls = iter(range(1, 10**6))

        def counted(real, calls=calls, operation=operation):
            def call(*args):
                if next(calls) == operation:
                    raise Killed
                return real(*args)

            return call

        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", counted(os.replace))
            patch.setattr(os, "fsync", counted(os.fsync))
            try:
                extracted(image_set, tmp_path / f"killed{operation}")
                break
            except Killed:
                stopped += 1
        assert contents(extracted(image_set, tmp_path / f"killed{operation}").folder) == expected
    assert stopped >= 12  # two for each of origin, three shards and index, and the folders'


def test_the_origin_says_what_made_the_store(image_set: ImageSet, tmp_path: Path) -> None:
    extract(image_set, Settings(), tmp_path)
    origin = read_origin(tmp_path / "local")
    assert origin["kind"] == "local features" and origin["count"] == 12
    assert origin["settings"]["local_features"]["method"] == "superpoint"


def test_features_helper_gives_unit_rows() -> None:
    assert torch.allclose(features(0, 5).descriptors.norm(dim=1), torch.ones(5))
