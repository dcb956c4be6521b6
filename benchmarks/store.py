"""How quickly local features are written to and read from the store.

    python benchmarks/store.py [--images 2000] [--points 1024] [--dim 256]

Prints images per second: writing with fsync, reading in order, and reading 100 random images as a query's shortlist
does, from a warm page cache.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from vpr.core import LocalFeatures, Origin
from vpr.features.shards import ShardFolder
from vpr.features.store import LocalStore, local_arrays
from vpr.runtime.threads import one_thread


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("images", 2000), ("points", 1024), ("dim", 256), ("shard", 128)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--folder", type=Path, help="where to write; a temporary folder by default")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        with one_thread():  # as the workers of the re-ranker read
            measure(Path(folder) / "store", arguments.images, arguments.points, arguments.dim, arguments.shard)


def measure(folder: Path, images: int, points: int, dim: int, shard: int) -> None:
    random = torch.Generator().manual_seed(0)
    descriptors = torch.nn.functional.normalize(torch.randn(points, dim, generator=random), dim=1)
    one = LocalFeatures(
        torch.rand(points, 2, generator=random), torch.rand(points, generator=random), descriptors, (640, 480)
    )
    job = ShardFolder(folder, Origin(LocalStore.kind, "benchmark"), [f"{row:032x}" for row in range(images)], shard)

    started = time.perf_counter()
    with job.writing():
        names = [job.write(items, local_arrays([one] * len(items), np.dtype("float16"))) for items in job.slices()]
        job.finish(names, {"names": [f"{row}.jpg" for row in range(images)]})
    report("write", images, time.perf_counter() - started)

    store = LocalStore(folder)
    started = time.perf_counter()
    for row in range(images):
        store[row]
    report("read in order", images, time.perf_counter() - started)

    rows = np.random.default_rng(0)
    times = []
    for _ in range(20):
        chosen = rows.choice(images, min(100, images), replace=False)
        started = time.perf_counter()
        for row in chosen:
            store[int(row)]
        times.append(time.perf_counter() - started)
    report("read a random shortlist", len(chosen), statistics.median(times))
    size = sum(path.stat().st_size for path in folder.rglob("*.safetensors")) / images
    print(f"{'bytes per image':24} {size / 1e6:10.3f} MB")


def report(what: str, images: int, seconds: float) -> None:
    print(f"{what:24} {images / seconds:10.0f} images/s {1e3 * seconds / images:8.3f} ms each")


if __name__ == "__main__":
    main()
