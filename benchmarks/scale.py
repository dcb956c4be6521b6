"""How a map grows, measured at a few sizes of each quantity, and the sizing table up to 1e9 images.

    python benchmarks/scale.py --out benchmarks/results/NAME.json [--server PYTHON] [--images FOLDER]
    python benchmarks/scale.py --table benchmarks/results/NAME.json [--doc docs/cluster.md] [--machine-hour 0.6 ...]

The first measures: features of rendered images (or of a folder of photographs) on one core, bytes of a map, and of
synthetic rows (benchmarks/map.py) compaction, shortlists and memory by FAISS; with a Python that has the package
`milvus` the same of a Milvus server. With --parts only some are measured, and the others stay as the file has them. The
second fits a law to each quantity, prints the table, and puts it into a document. What is said of 1e9 images was
measured at some 1e5: the law is the assumption.
"""

from __future__ import annotations

import argparse
import gc
import json
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

from sizing import Fleet, blocks, written

PARTS = ("extraction", "synthetic", "milvus")
READ = """
import os, sys
import numpy as np
from vpr.maps import Map
held = Map(sys.argv[1])
queries = np.random.default_rng(0).standard_normal((50, int(sys.argv[2]))).astype(np.float32)
held.shortlists(queries / np.linalg.norm(queries, axis=1, keepdims=True), 100)
print(int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE"))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--images", type=Path, help="a folder of photographs; the demo city by default")
    parser.add_argument("--counts", type=int, nargs="+", default=[8, 16, 32], help="images that are extracted")
    parser.add_argument("--sizes", type=int, nargs="+", default=[60_000, 120_000, 240_000], help="of synthetic maps")
    parser.add_argument("--server", type=Path, help="a Python with the package milvus")
    parser.add_argument("--milvus-sizes", type=int, nargs="+", default=[16_384, 32_768, 65_536])
    parser.add_argument("--work", type=Path, help="a folder for the maps; a temporary one by default")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--table", type=Path, metavar="JSON", help="print the table of a result")
    parser.add_argument("--doc", type=Path, help="with --table: put it into this document")
    for each in fields(Fleet):
        kind = type(each.default)
        parser.add_argument(f"--{each.name.replace('_', '-')}", type=kind, default=each.default)  # type: ignore[arg-type]
    arguments = parser.parse_args()
    if arguments.table is not None:
        show(arguments)
    elif arguments.out is not None:
        measure(arguments)
    else:
        parser.error("give --out to measure, or --table")


def show(arguments: argparse.Namespace) -> None:
    """Print the tables, and put them into a document."""
    fleet = Fleet(**{each.name: getattr(arguments, each.name) for each in fields(Fleet)})
    found = blocks(json.loads(arguments.table.read_text()), fleet)
    print("\n\n".join(found.values()))
    if arguments.doc is not None:
        arguments.doc.write_text(written(arguments.doc.read_text(), found))


def measure(arguments: argparse.Namespace) -> None:
    from vpr.runtime import device as machine
    from vpr.runtime.files import write_json

    counts = ["--counts", *map(str, arguments.counts), "--sizes", *map(str, arguments.sizes)]
    server = (
        [] if arguments.server is None else ["--server", "PYTHON", "--milvus-sizes", *map(str, arguments.milvus_sizes)]
    )
    images = [] if arguments.images is None else ["--images", "FOLDER"]
    command = shlex.join(["python", "benchmarks/scale.py", *counts, *server, *images])
    about = machine.facts(command, machine.device_of("cpu"))
    held = json.loads(arguments.out.read_text())["quantities"] if arguments.out.exists() else {}
    quantities: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory(dir=arguments.work) as name:
        for form, points in quantities_of(arguments, Path(name)):
            for key, point in points.items():
                quantities.setdefault(key, {"form": form, "points": []})["points"].append(point)
                print(key, point, flush=True)
            rows = {"photographs": _photographs(arguments), "quantities": {**held, **quantities}}
            write_json(arguments.out, {**about, **rows})
    print(arguments.out)


Points = dict[str, tuple[float, float]]


def quantities_of(arguments: argparse.Namespace, work: Path) -> Iterator[tuple[str, Points]]:
    """The form of the laws, and points of some quantities, one after the other."""
    if "extraction" in arguments.parts:
        yield from extraction(arguments, work)
    if "synthetic" in arguments.parts:
        yield from synthetic(arguments, work)
    if "milvus" in arguments.parts and arguments.server is not None:
        yield from milvus(arguments, work)


def _photographs(arguments: argparse.Namespace) -> str:
    return "images of the demo city, 640 x 480" if arguments.images is None else "photographs of a folder"


def extraction(arguments: argparse.Namespace, work: Path) -> Iterator[tuple[str, Points]]:
    import cv2

    from vpr.datasets.folders import folder_and_names
    from vpr.demo_city.write import write_demo_city
    from vpr.maps import Map

    folder = arguments.images
    if folder is None:
        folder = write_demo_city(work / "demo", places=max(arguments.counts) // 4 + 1, size=(640, 480)).database.root
    root, names = folder_and_names(folder)
    for profile, key in (("default", "local_bytes"), ("compact", "compact_local_bytes")):
        for count in arguments.counts:
            some = work / f"{profile}-{count}"
            for name in names[:count]:
                (some / "images" / name).parent.mkdir(parents=True, exist_ok=True)
                (some / "images" / name).symlink_to((root / name).resolve())
            started = time.process_time()
            held = Map.create(
                some / "city", some / "images", "none", profile=profile, machine={"device": "cpu", "threads": 1}
            )
            spent = time.process_time() - started
            if profile == "default":
                yield "line", {"extraction_s": (count, round(spent, 3))}
            local = sum(path.stat().st_size for path in held.folder.glob("segments/*/*.npy"))
            yield "line", {key: (count, local)}
    for width in (160, 320, 640):  # larger images are reduced to 640 x 480 pixels, or as many
        images = [cv2.imread(str(root / name))[..., ::-1] for name in names[:6]]
        scaled = [cv2.resize(image, (width, width * image.shape[0] // image.shape[1])) for image in images]
        held.engine.single(scaled[0].copy())
        started = time.process_time()
        for image in scaled:
            held.engine.single(image.copy())
        megapixels = scaled[0].shape[0] * scaled[0].shape[1] / 1e6
        yield (
            "line",
            {"extraction_by_megapixels": (round(megapixels, 4), round((time.process_time() - started) / 6, 4))},
        )


def synthetic(arguments: argparse.Namespace, work: Path) -> Iterator[tuple[str, Points]]:
    import numpy as np
    from map import Synthetic

    from vpr.config import config_path, load
    from vpr.maps import Map, writing
    from vpr.settings import Settings

    settings = load(Settings, config_path("map"), ["machine.device=cpu"])
    for size in arguments.sizes:
        held = Map.begin(work / f"synthetic-{size}", settings)
        rows = Synthetic(held.engine.dim, 16, held.codec.profile.bytes_per_keypoint)
        with writing.writing(held.folder) as manifest:
            rows.insert(manifest, held.folder, 0, size)
        started = time.process_time()
        held.compact()
        yield "line", {"compact_s": (size, round(time.process_time() - started, 2))}
        vectors = sum(path.stat().st_size for path in held.folder.glob("segments/*/vectors-*"))
        stored = (held.folder / "manifest.sqlite").stat().st_size
        yield "line", {"vector_bytes": (size, vectors), "manifest_bytes": (size, stored)}
        queries = np.stack([vector for vector, _ in rows.queries(size)]).astype(np.float32)
        yield "line", {"shortlist_ms": (size, median_ms(held, queries, time.process_time))}
        read = [sys.executable, "-c", READ, str(held.folder), str(held.engine.dim)]
        resident = int(subprocess.run(read, capture_output=True, text=True, check=True).stdout)
        yield "line", {"reader_bytes": (size, resident)}
        held.close()
        gc.collect()


def milvus(arguments: argparse.Namespace, work: Path) -> Iterator[tuple[str, Points]]:
    from map_milvus import Rows, collection_of, indexed
    from milvus_server import Server

    from vpr.maps import Map

    rows = Rows(None)
    for size in arguments.milvus_sizes:
        held = Map.begin(work / f"milvus-{size}", rows.settings)
        rows.insert(held.folder, 0, size)
        with Server(arguments.server, work / f"server-{size}") as server:
            started = time.perf_counter()
            held.set_search("milvus", uri=server.uri, index="IVF_SQ8", timeout_s=600)
            put = time.perf_counter() - started
            collection = collection_of(held)
            started = time.perf_counter()
            indexed(collection)
            spent = time.perf_counter() - started
            yield "line", {"milvus_put_s": (size, round(put, 2))}
            yield "power", {"milvus_index_s": (size, round(spent, 2))}
            yield "power", {"milvus_ms": (size, median_ms(held, rows.queries(size, 100), time.perf_counter))}
            time.sleep(20)  # it frees what loading took
            resident, disk = server.resident_bytes(), server.disk_bytes()
            yield "line", {"milvus_resident_bytes": (size, resident), "milvus_disk_bytes": (size, disk)}


def median_ms(held: Any, queries: Any, clock: Callable[[], float]) -> float:
    """Median time of a shortlist of 100, one query at a time, after a first round."""
    import numpy as np

    spent = []
    for _ in range(2):
        spent = []
        for query in queries:
            started = clock()
            held.shortlists(query[None], 100)
            spent.append(clock() - started)
    return round(1000 * float(np.median(spent)), 3)


if __name__ == "__main__":
    main()
