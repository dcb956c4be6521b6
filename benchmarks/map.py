"""Time and space of a large map: create, add, remove, compact, open, ask; of synthetic rows, kept as one JSON file.

    python benchmarks/map.py --images 100000 --out benchmarks/results/NAME.json [--keypoints 16] [--work DIR]

The rows are synthetic: with --like as near to one another as those of photographs (benchmarks/map_rows.py), asked
with descriptors of other photographs of the places; else drives of 50 images, each descriptor a step of a random walk
from the one before (similarity 0.84), with a falling spectrum. Their keypoints are random, and fewer than an image has,
so that a million fit on a disk. What an answer costs beside the shortlist, features and re-ranking, does not depend on
the size of the map. Figures are wall clock and time of the processor, since the machine may have other work.
"""

from __future__ import annotations

import argparse
import gc
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from map_rows import DescriptorStatistics
from numpy.typing import NDArray

from vpr.config import config_path, load
from vpr.core import Floats
from vpr.datasets.placed import PlacedImage, of_utm
from vpr.maps import Map, writing
from vpr.maps.manifest import Manifest
from vpr.maps.prior import Prior
from vpr.maps.segments import StoredLocal, write_segment
from vpr.maps.snapshot import Snapshot, by_segment
from vpr.maps.vectors import VectorCodec
from vpr.runtime import device as machine
from vpr.runtime.files import write_json
from vpr.settings import Settings

DRIVE = 50  # images
PHOTOGRAPHS = 10  # of a place, where the rows are like photographs
STEP_M = 5.0  # between them
SIDE_M = 20_000.0  # of the city
QUERIES = 100
REFINED = (500, 1000, 2000, 4000, 0)  # rows of a segment that are compared by their descriptors; 0: all
BLOCK = 8192  # rows in one segment of the beginning
OPEN = """
import os, sys, time
from vpr.maps import Map
started = time.perf_counter()
held = Map(sys.argv[1])
len(held)
print(time.perf_counter() - started)
print(int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--keypoints", type=int, default=16, help="of an image")
    parser.add_argument("--like", type=Path, help="(P, n, D) unit descriptors of photographs, .npy")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--work", type=Path, help="a folder for the map; a temporary one by default")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.work) as folder:
        statistics = None if arguments.like is None else DescriptorStatistics.of(np.load(arguments.like))
        result = measure(Path(folder) / "city", arguments.images, arguments.keypoints, statistics)
    like = [] if arguments.like is None else ["--like", arguments.like.name]
    numbers = ["--images", str(arguments.images), "--keypoints", str(arguments.keypoints)]
    command = shlex.join(["python", "benchmarks/map.py", *numbers, *like])
    kind = "random walks" if statistics is None else "like photographs"
    write_json(arguments.out, {**machine.facts(command, machine.device_of("cpu")), "rows": kind, **result})
    print(arguments.out)


def measure(folder: Path, images: int, keypoints: int, statistics: DescriptorStatistics | None) -> dict[str, Any]:
    settings = load(Settings, config_path("map"), ["machine.device=cpu"])
    held = Map.begin(folder, settings)
    rows = Synthetic(held.engine.dim, keypoints, held.codec.profile.bytes_per_keypoint, statistics)
    result: dict[str, Any] = {"images": images, "keypoints": keypoints, "dim": held.engine.dim}

    def note(name: str, work: Callable[[], Any]) -> Any:
        gc.collect()
        started, used = time.perf_counter(), time.process_time()
        value = work()
        result[name] = {"s": round(time.perf_counter() - started, 3), "cpu_s": round(time.process_time() - used, 3)}
        print(name, result[name], flush=True)
        return value

    def insert(first: int, count: int) -> None:
        with writing.writing(folder) as manifest:
            rows.insert(manifest, folder, first, count)

    note("add_1000_to_10000", lambda: (insert(0, min(10_000, images - 1000)), None)[1])
    result.pop("add_1000_to_10000")
    note("add_1000_to_10000", lambda: insert(min(10_000, images - 1000), 1000))
    note("create", lambda: insert(min(10_000, images - 1000) + 1000, images - min(10_000, images - 1000) - 1000))
    done = note("compact", held.compact)
    result["recall_of_first_ten"] = done.recall
    note("add_1000", lambda: insert(images, 1000))
    names = [f"{row:08d}.jpg" for row in range(images // 2, images // 2 + 1000)]
    note("remove_1000", lambda: held.remove(names))
    note("compact_after", held.compact)
    info = held.info()
    result["segments"], result["bytes_per_image"] = info.segments, round(info.bytes_per_image)
    opened = subprocess.run([sys.executable, "-c", OPEN, str(folder)], capture_output=True, text=True, check=True)
    seconds, resident_mb = map(float, opened.stdout.split())
    result["open"] = {"s": round(seconds, 3), "resident_mb": round(resident_mb)}
    with held._reader.reading() as (manifest, snapshot):
        queries = rows.queries(images)
        result["shortlist"] = shortlists(snapshot, queries)
        result["near"] = near(manifest, snapshot, queries)
    result["peak_memory_mb"] = round((machine.peak_memory() or 0) / 2**20)
    return result


class Synthetic:
    """Rows of a map that show nothing."""

    def __init__(self, dim: int, keypoints: int, width: int, statistics: DescriptorStatistics | None = None) -> None:
        self.statistics = statistics  # of descriptors that the rows are like; None for random walks
        self.codec = VectorCodec(dim)
        self.keypoints = keypoints
        self.width = width
        self.spectrum = (1 / np.sqrt(np.arange(dim) + 10.0)).astype(np.float32)

    def vectors(self, first: int, count: int) -> Floats:
        """(count, dim) unit rows; the same rows whatever blocks they are asked in, if blocks are whole drives."""
        if self.statistics is not None:
            return self._places(first, count)[:, :PHOTOGRAPHS].reshape(-1, len(self.spectrum))[:count]
        random = np.random.default_rng(first)
        drives = -(-count // DRIVE)
        steps = random.standard_normal((DRIVE, drives, len(self.spectrum)), dtype=np.float32)
        walk = steps.copy()
        for place in range(1, DRIVE):
            walk[place] = 0.9 * walk[place - 1] + 0.436 * steps[place]
        rows = walk.transpose(1, 0, 2).reshape(-1, len(self.spectrum))[:count] * self.spectrum
        rows += 0.3 * self.spectrum.mean() * random.standard_normal(rows.shape, dtype=np.float32)
        unit: Floats = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        return unit

    def _places(self, first: int, count: int) -> Floats:
        """(places, PHOTOGRAPHS + 1, D) of places, the last of which the map does not hold."""
        assert self.statistics is not None
        return self.statistics.rows(-(-count // PHOTOGRAPHS), PHOTOGRAPHS + 1, seed=first)

    def positions(self, first: int, count: int) -> NDArray[np.float64]:
        random = np.random.default_rng(first + 1)
        drives = -(-count // DRIVE)
        starts = random.uniform(0, SIDE_M, (drives, 1, 2))
        angle = random.uniform(0, 2 * np.pi, (drives, 1))
        along = STEP_M * np.arange(DRIVE)[None, :, None] * np.stack([np.cos(angle), np.sin(angle)], axis=2)
        metres: NDArray[np.float64] = (starts + along).reshape(-1, 2)[:count] + np.array([380_000.0, 6_170_000.0])
        return metres

    def insert(self, manifest: Manifest, folder: Path, first: int, count: int) -> None:
        """Commit rows, a segment for each block."""
        for start in range(first, first + count, BLOCK):
            size = min(BLOCK, first + count - start)
            codes = self.codec.encode(self.vectors(start, size))
            places = of_utm(self.positions(start, size), ["33N"] * size)
            images = [PlacedImage(f"{start + row:08d}.jpg", place) for row, place in enumerate(places)]
            local = StoredLocal(self._pieces(start, size), [(self.keypoints, 640, 480)] * size, self.width)
            record = write_segment(folder, manifest.next_segment(), self.codec, codes, local)
            with manifest.writing():
                manifest.put_segment(record)
                manifest.insert(images, [""] * size, record.id)

    def _pieces(self, first: int, count: int) -> Iterator[NDArray[np.uint8]]:
        yield np.random.default_rng(first + 2).integers(0, 256, (count * self.keypoints, self.width), np.uint8)

    def queries(self, images: int) -> list[tuple[Floats, tuple[float, float]]]:
        """Stored rows, moved to a similarity of about 0.78, and where they were taken."""
        random = np.random.default_rng(7)
        found = []
        for start in random.choice(np.arange(11_000, images - BLOCK, BLOCK) if images > 30_000 else [0], QUERIES):
            row = int(random.integers(0, DRIVE * 20))
            if self.statistics is not None:
                vector = self._places(int(start), BLOCK)[row // PHOTOGRAPHS, PHOTOGRAPHS]
            else:
                vector = self.vectors(int(start), BLOCK)[row]
                vector = vector + 0.8 / len(vector) ** 0.5 * random.standard_normal(len(vector), dtype=np.float32)
            (place,) = of_utm(self.positions(int(start), BLOCK)[row : row + 1], ["33N"])
            assert place.degrees is not None
            found.append((vector / np.linalg.norm(vector), place.degrees))
        return found


def shortlists(snapshot: Snapshot, queries: list[tuple[Floats, tuple[float, float]]]) -> list[dict[str, float]]:
    """Time and recall of the exact 100 and 10, by how many rows are compared by their descriptors."""
    exact = [[(e.segment, e.row) for e in snapshot.search(vector, 100, refined=0)] for vector, _ in queries]
    table = []
    for refined in REFINED:
        wall, cpu, hundred, ten = [], [], [], []
        for (vector, _), truth in zip(queries, exact, strict=True):
            started, used = time.perf_counter(), time.process_time()
            found = snapshot.search(vector, 100, refined=refined)
            wall.append(time.perf_counter() - started)
            cpu.append(time.process_time() - used)
            rows = [(e.segment, e.row) for e in found]
            hundred.append(len(set(rows) & set(truth)) / len(truth))
            ten.append(len(set(rows[:10]) & set(truth[:10])) / 10)
        table.append(
            {
                "refined": refined,
                **percentiles(wall, cpu),
                "recall_of_100": round(float(np.mean(hundred)), 4),
                "recall_of_10": round(float(np.mean(ten)), 4),
            }
        )
        print(table[-1], flush=True)
    return table


def near(manifest: Manifest, snapshot: Snapshot, queries: list[tuple[Floats, tuple[float, float]]]) -> dict[str, float]:
    """Time of a shortlist of 100 within 300 m."""
    wall, cpu, counts = [], [], []
    for vector, place in queries:
        started, used = time.perf_counter(), time.process_time()
        prior = Prior.of(place, 300.0, None, None, "")
        assert prior is not None
        among = by_segment(prior.places(manifest))
        snapshot.search(vector, 100, among)
        wall.append(time.perf_counter() - started)
        cpu.append(time.process_time() - used)
        counts.append(sum(map(len, among.values())))
    return {**percentiles(wall, cpu), "images_within": float(np.median(counts))}


def percentiles(wall: list[float], cpu: list[float]) -> dict[str, float]:
    found = {"p50_ms": np.quantile(wall, 0.5), "p95_ms": np.quantile(wall, 0.95), "cpu_p50_ms": np.median(cpu)}
    return {name: round(1000 * float(value), 2) for name, value in found.items()}


if __name__ == "__main__":
    main()
