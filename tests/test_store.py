"""The feature store: what is written comes back, other settings are refused, and a kill at any moment costs nothing."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from conftest import features, textured
from safetensors.torch import load_file, save_file
from stores import contents_of, extract_global, extract_local

from vpr.build import build_extractor
from vpr.config import digest_of_names, load
from vpr.core import DataError, ImageError, ImageSet, LocalFeatures, Origin
from vpr.datasets.folders import read_image_folder
from vpr.features.contents import NO_CONTENT, read_contents
from vpr.features.extraction import Extraction, FeatureOutput, Global, aggregate
from vpr.features.feature_set import FeatureFolders
from vpr.features.shards import ShardFolder, read_origin
from vpr.features.store import GlobalStore, LocalStore
from vpr.global_descriptors.thumbnail import Settings as ThumbnailSettings
from vpr.global_descriptors.thumbnail import Thumbnail
from vpr.local_features.rootsift import RootSift
from vpr.local_features.rootsift import Settings as RootSiftSettings
from vpr.runtime.files import exclusive_lock
from vpr.settings import Settings

ORIGIN = Origin("local features", "abc", settings={"local_features": {"longest_side": 640}})
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
        assert torch.equal(stored.keypoints, alone.keypoints)
        assert torch.equal(stored.descriptors, alone.descriptors)
        assert stored.image_size == alone.image_size == (120, 90)


def test_bad_and_blank_images_keep_their_rows(image_set: ImageSet, tmp_path: Path) -> None:
    store = extracted(image_set, tmp_path / "store")
    counts = [len(each) for each in store]
    assert [row for row, count in enumerate(counts) if count == 0] == [5, 9]
    assert set(store.failed()) == {9}
    assert "truncated" in store.failed()[9]
    assert store[5].image_size == (120, 90) and store[5].descriptors.shape == (0, 128)
    with pytest.raises(IndexError):
        store[12]


def test_a_bad_image_can_be_fatal(image_set: ImageSet, tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"09\.jpg: the JPEG image is truncated"):
        extracted(image_set, tmp_path / "store", Extraction(shard_size=5, on_bad_image="fail"))


def test_half_precision_keeps_points_exact_and_descriptors_near(image_set: ImageSet, tmp_path: Path) -> None:
    half = extracted(image_set, tmp_path / "half")
    full = extracted(image_set, tmp_path / "full", Extraction(shard_size=5, dtype="float32"))
    assert torch.equal(half[0].keypoints, full[0].keypoints)
    assert (half[0].descriptors - full[0].descriptors).abs().max() < 2e-4
    assert half[0].descriptors.dtype == torch.float32


@pytest.mark.parametrize(
    ("origin", "reason"),
    [
        (Origin("local features", "xyz", settings={"local_features": {"longest_side": 480}}), "640 -> 480"),
        (Origin("local features", "abc", weights="other"), "weights '', wanted 'other'"),
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


def shards_of(store: LocalStore) -> list[Path]:
    """Files of the shards, in the order of the images."""
    return list(store._paths)


def test_a_damaged_shard_is_named_and_a_lost_one_made_again(image_set: ImageSet, tmp_path: Path) -> None:
    store = extracted(image_set, tmp_path / "store")
    shard = shards_of(store)[1]
    before = shard.read_bytes()
    shard.write_bytes(before[:-100])
    with pytest.raises(DataError, match=rf"{shard.name}: damaged or missing"):
        LocalStore(store.folder)[7]
    assert len(LocalStore(store.folder)[0])
    extracted(image_set, store.folder)  # a shard that cannot be opened holds nothing to keep
    assert shard.read_bytes() == before
    shard.unlink()
    extracted(image_set, store.folder)
    assert shard.read_bytes() == before


@pytest.mark.parametrize("place", [-3, -50_000])
def test_a_flipped_bit_is_noticed(image_set: ImageSet, tmp_path: Path, place: int) -> None:
    store = extracted(image_set, tmp_path / "store")
    shard = shards_of(store)[0]
    data = bytearray(shard.read_bytes())
    data[place] ^= 1
    shard.write_bytes(bytes(data))
    with pytest.raises(DataError, match="checksum"):
        list(LocalStore(store.folder))


def test_a_flipped_bit_of_a_global_descriptor_is_noticed(image_set: ImageSet, tmp_path: Path) -> None:
    origin = Origin("global descriptors", "abc")
    store = extract_global(image_set, Thumbnail(ThumbnailSettings()), tmp_path / "store", origin, HOW)
    (shard, *_) = store._paths
    data = bytearray(shard.read_bytes())
    data[-3] ^= 1
    shard.write_bytes(bytes(data))
    with pytest.raises(DataError, match="the checksum of descriptors does not fit"):
        GlobalStore(store.folder).matrix()


def test_an_unfinished_store_is_not_read(image_set: ImageSet, tmp_path: Path) -> None:
    store = extracted(image_set, tmp_path / "store")
    (store.folder / "index.json").unlink()
    with pytest.raises(DataError, match="interrupted; run it again"):
        LocalStore(store.folder)


# --- what is new is added, what is gone is dropped, what changed is made again, what failed is tried again


class Counting(RootSift):
    """Counts the images that it extracts features of."""

    def __init__(self) -> None:
        super().__init__(RootSiftSettings())
        self.images = 0

    def extract(self, images: Sequence[torch.Tensor]) -> list[LocalFeatures]:
        self.images += len(images)
        return super().extract(images)


def count_extracted(images: ImageSet, folder: Path) -> int:
    """Images computed by an extraction, whose store must equal that of a run in one piece."""
    method = Counting()
    extract_local(images, method, folder, ORIGIN, HOW)
    whole = folder.with_name(f"whole-{len(list(folder.parent.iterdir()))}")
    extracted(images, whole)
    assert contents(folder) == contents(whole)
    return method.images


def with_names(images: ImageSet, *names: str) -> ImageSet:
    return ImageSet(images.root, names)


def test_a_changed_list_costs_its_new_images(image_set: ImageSet, tmp_path: Path) -> None:
    folder = tmp_path / "store"
    names = image_set.names[:9]
    assert count_extracted(with_names(image_set, *names), folder) == 9
    assert count_extracted(with_names(image_set, *names), folder) == 0
    assert count_extracted(with_names(image_set, *names, "10.jpg", "11.jpg"), folder) == 2
    assert count_extracted(with_names(image_set, "10.jpg", *names[2:]), folder) == 0
    assert count_extracted(with_names(image_set, *reversed(names)), folder) == 2  # the two that were dropped


def test_changed_content_is_made_again(image_set: ImageSet, tmp_path: Path) -> None:
    folder = tmp_path / "store"
    images = with_names(image_set, *image_set.names[:5])
    assert count_extracted(images, folder) == 5
    other = image_set.path(11).read_bytes()
    image_set.path(0).write_bytes(other)
    assert count_extracted(images, folder) == 1


def test_another_root_with_the_same_names_is_another_set(image_set: ImageSet, tmp_path: Path) -> None:
    folder, root = tmp_path / "store", tmp_path / "other"
    root.mkdir()
    names = image_set.names[:4]
    for name, source in zip(names, image_set.names[1:5], strict=True):
        (root / name).write_bytes(image_set.path(image_set.names.index(source)).read_bytes())
    assert count_extracted(with_names(image_set, *names), folder) == 4
    assert count_extracted(ImageSet(root, names), folder) == 1  # three of the four were there under other names


def test_a_failure_is_tried_again(image_set: ImageSet, tmp_path: Path) -> None:
    folder = tmp_path / "store"
    names = (*image_set.names[:3], "09.jpg", "later.jpg")
    images = with_names(image_set, *names)
    store = extracted(images, folder)
    assert set(store.failed()) == {3, 4}
    with pytest.raises(ImageError):
        extracted(images, folder, Extraction(shard_size=5, on_bad_image="fail"))
    image_set.path(9).write_bytes(image_set.path(8).read_bytes())  # repaired
    (image_set.root / "later.jpg").write_bytes(image_set.path(7).read_bytes())  # copied in
    assert count_extracted(images, folder) == 2
    assert not LocalStore(folder).failed()


def test_the_limit_of_megapixels_counts_whenever_it_changes(image_set: ImageSet, tmp_path: Path) -> None:
    images = with_names(image_set, *image_set.names[:3])
    low = Extraction(shard_size=5, max_megapixels=0.001)
    assert len(extracted(images, tmp_path / "store", low).failed()) == 3
    assert not extracted(images, tmp_path / "store").failed()
    assert len(extracted(images, tmp_path / "store", low).failed()) == 3


def test_files_are_hashed_once(image_set: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = tmp_path / "contents.json"
    first = read_contents(image_set, cache)
    assert len(set(first.keys)) == len(image_set) and NO_CONTENT not in first.keys
    monkeypatch.setattr("vpr.features.contents.digest_of_file", lambda path: "0" * 32)
    assert read_contents(image_set, cache) == first
    assert set(read_contents(image_set, cache, verify=True).keys) == {"0" * 32}
    os.utime(image_set.path(2), ns=(1, 1))
    cache.write_text("{")
    assert read_contents(image_set, cache).keys[2] == "0" * 32


def test_what_is_no_file_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    images = ImageSet(tmp_path, ("pipe.jpg", "absent.jpg"))
    assert read_contents(images, tmp_path / "contents.json").keys == (NO_CONTENT, NO_CONTENT)
    store = extracted(images, tmp_path / "store")
    assert "pipe or device" in store.failed()[0] and "no such image" in store.failed()[1]


def test_format_1_is_read(image_set: ImageSet, tmp_path: Path) -> None:
    """As earlier versions wrote it: numbered shards, no index of content, no checksums."""
    store = extracted(image_set, tmp_path / "store")
    old = tmp_path / "old"
    old.mkdir()
    for number, shard in enumerate(store._paths):
        tensors = {k: v for k, v in load_file(shard).items() if k != "item_checksums"}
        tensors["points"] = tensors.pop("keypoints")
        notes = {"unreadable": {"9": "truncated"} if number == 1 else {}}
        save_file(tensors, old / f"{number:06d}.safetensors", metadata={"notes": json.dumps(notes)})
    names = digest_of_names(image_set.names)
    record = {"format": 1, "count": 12, "shard_size": 5, "kind": "local features", "fingerprint": "abc"}
    (old / "origin.json").write_text(json.dumps({**record, "images": names, "weights": "", "settings": {}}))
    read = LocalStore(old)
    assert len(read) == 12 and set(read.failed()) == {9} and len(set(read.keys)) == 12
    assert all(torch.equal(mine.descriptors, theirs.descriptors) for mine, theirs in zip(read, store, strict=True))


def test_scales_and_orientations_come_back(tmp_path: Path) -> None:
    class Turned(RootSift):
        def extract(self, images: Sequence[torch.Tensor]) -> list[LocalFeatures]:
            found = super().extract(images)
            return [
                replace(each, scales=torch.arange(len(each)).float(), orientations=torch.ones(len(each)))
                for each in found
            ]

    names = []
    for seed in range(2):
        cv2.imwrite(str(tmp_path / f"{seed}.png"), textured(seed, 90, 120))
        names.append(f"{seed}.png")
    method = Turned(RootSiftSettings())
    store = extract_local(ImageSet(tmp_path, tuple(names)), method, tmp_path / "store", ORIGIN, HOW)
    assert store[1].scales is not None and store[1].orientations is not None
    assert store[1].scales.tolist() == list(range(len(store[1])))
    assert store[1].orientations.unique().tolist() == [1]


def test_two_writers_do_not_meet(tmp_path: Path) -> None:
    one, other = (ShardFolder(tmp_path / "store", ORIGIN, ["a"] * 10, 5) for _ in range(2))
    with one.writing(), pytest.raises(DataError, match="another process is writing"), other.writing():
        pass
    with other.writing():
        pass


def test_leftovers_of_a_killed_writer_go_away(tmp_path: Path) -> None:
    folder = tmp_path / "store"
    folder.mkdir()
    (folder / ".000000.safetensors.123.tmp").write_bytes(b"half")
    with ShardFolder(folder, ORIGIN, ["a"] * 10, 5).writing():
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
    origin = Origin("global descriptors", "abc")
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
    origin = Origin("global descriptors", "abc")
    output = FeatureOutput(tmp_path / "global", origin, Global(Count(), "float32"))
    store, reused = aggregate(local, local.keys, Count(), output, threads=2)
    assert reused == 1  # the image that failed has nothing to aggregate
    assert store.matrix()[:, 0].tolist() == [len(each) for each in local]
    assert store.failed() == local.failed()
    assert aggregate(local, local.keys, Count(), output, threads=2).reused == 12


# --- kill -9

EXTRACT = """
import sys
from pathlib import Path
from vpr.build import build_extractor
from vpr.config import load
from vpr.datasets.folders import read_image_folder
from vpr.features.feature_set import FeatureFolders
from vpr.settings import Settings
settings = load(Settings, None, ["store.shard_size=4", "store.batch_size=2", "machine.threads=2"])
extractor = build_extractor(settings)
print("ready", flush=True)
extractor.extract(read_image_folder(Path(sys.argv[1])), FeatureFolders.under(Path(sys.argv[2])))
print("done", flush=True)
"""


@contextmanager
def extracting(images: Path, folder: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that is about to extract."""
    command = [sys.executable, "-c", EXTRACT, str(images), str(folder)]
    log = folder.with_name(f"{folder.name}.log").open("w")
    with log, subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        yield process


def test_killed_at_random_moments_the_store_is_byte_identical(image_set: ImageSet, tmp_path: Path) -> None:
    """Kill -9 at random while images are added, dropped and replaced; at the end all is as in a run in one piece."""
    images = image_set.root
    settings = load(Settings, None, ["store.shard_size=4", "store.batch_size=2"])
    random_ = random.Random(7)
    pool = [image_set.path(row).read_bytes() for row in (0, 1, 2, 3, 4, 6, 7, 8)]
    started = time.perf_counter()
    build_extractor(settings).extract(read_image_folder(images), FeatureFolders.under(tmp_path / "first"))
    whole_s = time.perf_counter() - started
    for number in range(6):
        (images / f"new{number}.jpg").write_bytes(random_.choice(pool))
        (images / f"{random_.randrange(9):02d}.jpg").write_bytes(random_.choice(pool) + bytes([number]))
        (images / f"new{number - 4}.jpg").unlink(missing_ok=True)
        with extracting(images, tmp_path / "killed") as process:
            time.sleep(random_.uniform(0, whole_s))
            process.send_signal(signal.SIGKILL)
    with extracting(images, tmp_path / "killed") as last:
        assert last.wait() == 0, (tmp_path / "killed.log").read_text()
    build_extractor(settings).extract(read_image_folder(images), FeatureFolders.under(tmp_path / "whole"))
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")


def test_what_a_killed_writer_left_of_the_cache_of_content_keys_is_deleted(image_set: ImageSet, tmp_path: Path) -> None:
    cache = tmp_path / "contents.json"
    (tmp_path / ".contents.json.1.tmp").write_text("half")
    (tmp_path / ".other.json.1.tmp").write_text("of another file")
    with exclusive_lock(tmp_path / ".contents.json.lock"):  # another process writes: nothing is touched
        keys = read_contents(image_set, cache).keys
        assert not cache.exists() and (tmp_path / ".contents.json.1.tmp").exists()
    assert read_contents(image_set, cache).keys == keys
    assert cache.exists() and not (tmp_path / ".contents.json.1.tmp").exists()
    assert (tmp_path / ".other.json.1.tmp").exists()


def test_a_kill_at_any_file_operation_leaves_a_store_that_continues(
    image_set: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stop in front of every single rename and fsync, one after the other."""
    contents_of(image_set, tmp_path / "whole")  # hashed once, so that no operation of the cache is counted
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
    build_extractor(Settings()).extract(image_set, FeatureFolders.under(tmp_path))
    origin = read_origin(tmp_path / "local")
    assert origin["kind"] == "local features" and origin["format"] == 2
    assert origin["settings"]["local_features"]["method"] == "superpoint"


def test_features_helper_gives_unit_rows() -> None:
    assert torch.allclose(features(0, 5).descriptors.norm(dim=1), torch.ones(5))


def test_an_unreadable_image_is_named_once_by_several_passes(image_set: ImageSet, tmp_path: Path, caplog) -> None:
    """Local features and a descriptor of images each read all images."""
    overrides = ["local_features.method=rootsift", "global_descriptor.method=thumbnail", "rerank.k=1"]
    extractor = build_extractor(load(Settings, None, overrides))
    found = extractor.extract(image_set, FeatureFolders.under(tmp_path / "features"))
    assert len(extractor.passes()) == 2 and list(found.work.failed) == [9]
    assert sum(record.message.startswith("skipped: ") for record in caplog.records) == 1
