"""A large map searched by Milvus: recall, queries a second, filters against brute force, changes, and kills.

    python benchmarks/map_milvus.py --server PYTHON --images 200000 --indexes FLAT IVF_SQ8 HNSW --out NAME.json

PYTHON is a Python with the package `milvus` (2.3.5, the server), which is started here and killed with SIGKILL. The
rows are those of benchmarks/map.py (drives, random walks), or with --like FILE.npy, (places, photographs, D) unit
descriptors of photographs, rows like these (benchmarks/map_rows.py). Exact are the segments of the map themselves, by
FAISS without inverted lists. Figures are wall clock; a server, this process and whatever else runs share the cores.
"""

from __future__ import annotations

import argparse
import os
import shlex
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from map import BLOCK, Synthetic
from map_rows import DescriptorStatistics
from milvus_server import Server
from tqdm import trange

from vpr.config import config_path, load
from vpr.core import Floats, SearchError
from vpr.datasets.placed import PlacedImage, of_utm
from vpr.maps import Map, writing
from vpr.maps.milvus.collection import MARKER, MilvusCollection
from vpr.maps.milvus.search import MilvusSearch
from vpr.maps.milvus.settings import URI_VARIABLE
from vpr.maps.prior import Prior
from vpr.maps.search import SegmentSearch
from vpr.maps.segments import StoredLocal, write_segment
from vpr.runtime import device as machine
from vpr.runtime.files import write_json
from vpr.settings import Settings

KEYPOINTS = 16
PHOTOGRAPHS = 5  # of a place, besides the one that asks
TOP = 100
QUERIES, BATCH, FILTERED = 1000, 250, 50
DAY = 1_714_521_600.0  # 2024-05-01
WHERES = {
    "heading": "heading BETWEEN 80 AND 100",
    "text and number": "camera = 'left' AND speed > 20",
    "not": "NOT (camera = 'left' OR heading < 300)",
    "group": "\"group\" = 'drive7'",
    "name (by ids)": "name LIKE '000012%'",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--server", type=Path, required=True, help="a Python with the package milvus")
    parser.add_argument("--images", type=int, default=200_000)
    parser.add_argument("--indexes", nargs="+", default=["FLAT", "IVF_SQ8", "HNSW"])
    parser.add_argument("--like", type=Path, help="(P, n, D) unit descriptors of photographs, .npy")
    parser.add_argument("--kills", type=int, default=0)
    parser.add_argument("--changes", action="store_true", help="add, remove, damage and repair")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--work", type=Path, help="a folder for the map and the server; a temporary one by default")
    arguments = parser.parse_args()
    said = ["--images", str(arguments.images), "--indexes", *arguments.indexes, "--kills", str(arguments.kills)]
    command = shlex.join(["python", "benchmarks/map_milvus.py", "--server", "PYTHON", *said])
    command += " --like DESCRIPTORS.npy" * (arguments.like is not None) + " --changes" * arguments.changes
    with tempfile.TemporaryDirectory(dir=arguments.work) as folder:
        rows = Rows(None if arguments.like is None else np.load(arguments.like))
        about = {**machine.facts(command, machine.device_of("cpu")), "rows": rows.kind, "images": arguments.images}
        with Server(arguments.server, Path(folder) / "server") as server:
            for result in measure(arguments, Path(folder) / "city", rows, server):
                write_json(arguments.out, {**about, **result})
    print(arguments.out)


class Rows:
    """Images of a synthetic map, in blocks that are each the same whenever they are made."""

    def __init__(self, photographs: Floats | None) -> None:
        self.kind = "random walks" if photographs is None else "like photographs"
        self.statistics = None if photographs is None else DescriptorStatistics.of(photographs)
        settings = load(Settings, config_path("map"), ["machine.device=cpu"])
        with tempfile.TemporaryDirectory() as folder:
            made = Map.begin(Path(folder) / "city", settings)
            self.dim, width = made.engine.dim, made.codec.profile.bytes_per_keypoint
        self.settings = settings
        self.synthetic = Synthetic(self.dim, KEYPOINTS, width)

    def vectors(self, first: int, count: int) -> Floats:
        """(count, D) unit rows; ``first`` begins a block."""
        if self.statistics is None:
            return self.synthetic.vectors(first, count)
        return self._places(first)[:, :PHOTOGRAPHS].reshape(-1, self.dim)[:count]

    def queries(self, images: int, count: int) -> Floats:
        """(count, D) descriptors of photographs of places of the map that it does not hold."""
        if self.statistics is None:
            found = [vector for vector, _ in self.synthetic.queries(images)]
            return np.stack([found[row % len(found)] for row in range(count)]).astype(np.float32)
        random, parts = np.random.default_rng(3), []
        blocks = range(0, images, BLOCK)
        for first in blocks:
            held = min(BLOCK, images - first) // PHOTOGRAPHS
            chosen = random.choice(held, min(held, -(-count // len(blocks))), replace=False)
            parts.append(self._places(first)[chosen, PHOTOGRAPHS])
        return np.concatenate(parts)[random.permutation(sum(map(len, parts)))[:count]]

    def _places(self, first: int) -> Floats:
        assert self.statistics is not None
        return self.statistics.rows(-(-BLOCK // PHOTOGRAPHS), PHOTOGRAPHS + 1, seed=first)

    def insert(self, folder: Path, first: int, count: int) -> None:
        """Commit images, a segment for each block."""
        codec = self.synthetic.codec
        for start in trange(first, first + count, BLOCK, desc="insert"):
            size = min(BLOCK, first + count - start)
            images = self.images(start, size)
            pieces, frames = self.synthetic._pieces(start, size), [(KEYPOINTS, 640, 480)] * size
            with writing.writing(folder) as manifest:
                local = StoredLocal(pieces, frames, self.synthetic.width)
                codes = codec.encode(self.vectors(start, size))
                record = write_segment(folder, manifest.next_segment(), codec, codes, local)
                with manifest.writing():
                    manifest.put_segment(record)
                    manifest.insert(images, [f"{start + row:x}" for row in range(size)], record.id)

    def images(self, first: int, count: int) -> list[PlacedImage]:
        """What is known of the images: drives of 50 images, one a second, with a camera and a speed."""
        places = of_utm(self.synthetic.positions(first, count), ["33N"] * count)
        random = np.random.default_rng(first + 5)
        headings, speeds = random.uniform(0, 360, count).round(2), random.uniform(0, 30, count).round(1)
        return [
            PlacedImage(
                f"{first + row:08d}.jpg",
                places[row],
                float(headings[row]),
                DAY + first + row,
                f"drive{(first + row) // 50}",
                {"camera": ("left", "right")[row % 2], "speed": float(speeds[row])},
            )
            for row in range(count)
        ]


def measure(arguments: argparse.Namespace, folder: Path, rows: Rows, server: Server) -> Iterator[dict[str, Any]]:
    """What is known after each step."""
    result: dict[str, Any] = {"dim": rows.dim, "indexes": {}}
    held = Map.begin(folder, rows.settings)
    rows.insert(folder, 0, arguments.images)
    queries = rows.queries(arguments.images, QUERIES)
    exact = by_faiss(held, queries[:BATCH], None)
    for index in arguments.indexes:
        asking = queries[:BATCH] if index == "FLAT" else queries
        result["indexes"][index] = of_index(held, index, server, asking, exact)
        yield result
    collection = collection_of(held)
    result["server"] = {"resident_mb": mega(server.resident_bytes()), "disk_mb": mega(server.disk_bytes())}
    result["rows_of_collection"] = count(collection)
    if arguments.changes:
        result["changes"] = changes(held, rows, arguments.images)
        yield result
    if arguments.kills:
        result["kills"] = kills(held, rows, server, arguments.images + 2 * BLOCK, arguments.kills)
    yield result


def of_index(held: Map, index: str, server: Server, queries: Floats, exact: Sequence[Sequence[int]]) -> dict[str, Any]:
    """Times and recall of an index; with FLAT, which is exact, filters are compared with brute force."""
    settings = {"uri": server.uri, "index": index, "timeout_s": 600}
    table: dict[str, Any] = {"put_and_index_s": timed(lambda: held.set_search("milvus", **settings))}
    collection = collection_of(held)
    table["flush_and_index_s"] = timed(lambda: indexed(collection))
    print(index, table, flush=True)
    found = ids(held.shortlists(queries[:BATCH], TOP))
    table["recall_of_100"] = overlap(found, exact)
    table["recall_of_10"] = overlap([each[:10] for each in found], [each[:10] for each in exact])
    spent = timed(lambda: held.shortlists(queries, TOP))
    table["map_queries_per_s"] = round(len(queries) / spent, 1)
    spent = timed(lambda: collection.search(queries, TOP, ""))
    table["milvus_queries_per_s"] = round(len(queries) / spent, 1)
    singles = [timed(lambda row=row: held.shortlists(queries[row : row + 1], TOP)) for row in range(100)]
    table["single"] = percentiles(singles)
    table["resident_mb"] = mega(server.resident_bytes())
    print(index, table, flush=True)
    table["filters"] = filters(held, queries[:FILTERED])
    return table


def filters(held: Map, queries: Floats) -> dict[str, Any]:
    """For each kind of prior the share of the exact first hundred that is found, and images that it forbids."""
    middle = next(held.images("id = 5000")).position
    assert middle is not None and middle.degrees is not None
    kinds: dict[str, dict[str, Any]] = {name: {"where": where} for name, where in WHERES.items()}
    kinds["near 300 m"] = {"near": middle.degrees, "radius_m": 300.0}
    kinds["near 3 km"] = {"near": middle.degrees, "radius_m": 3000.0}
    kinds["near 3 km, heading, hours"] = {**kinds["near 3 km"], "where": WHERES["heading"], "since": DAY + 1000}
    kinds["hours"] = {"since": DAY + 3600, "until": DAY + 7200}
    table = {}
    for name, prior in kinds.items():
        exact = by_faiss(held, queries, prior)
        found = ids(held.shortlists(queries, TOP, **prior))
        with held.reading() as (manifest, _):
            allowed = set(prior_of(prior).places(manifest)[:, 0].astype(int).tolist())
        singles = [
            timed(lambda row=row, prior=prior: held.shortlists(queries[row : row + 1], TOP, **prior))
            for row in range(20)
        ]
        forbidden = sum(number not in allowed for each in found for number in each)
        table[name] = {
            "images": len(allowed),
            "found": overlap(found, exact),
            "forbidden": forbidden,
            **percentiles(singles),
        }
        print(name, table[name], flush=True)
    return table


def changes(held: Map, rows: Rows, images: int) -> dict[str, Any]:
    """Time of adding and removing, and what verify and repair say of a collection that was damaged."""
    collection = collection_of(held)
    table: dict[str, Any] = {"add_8192_s": timed(lambda: rows.insert(held.folder, _next(images), BLOCK))}
    names = [image.name for image in held.images("id > 100 AND id <= 1100")]
    table["remove_1000_s"] = timed(lambda: held.remove(names))
    table["verify_s"] = timed(lambda: require(held.verify() == []))
    collection.delete(list(range(2_001, 2_501)))
    stray = {**collection_row(collection, 3_000), "mark": 1}
    collection.put([{**stray, "id": 10_000_000 + row} for row in range(300)])
    collection.put([{**stray, "id": number} for number in range(4_001, 4_201)])
    table["verify_of_damaged"] = [text.split(", ", 2)[-1].split(" (id")[0] for text in held.verify()]
    table["repair_s"] = timed(lambda: table.update(repaired=[text.split(": ")[-1] for text in held.repair()]))
    table["verify_after"] = held.verify()
    table["rows_minus_images"] = count(collection) - len(held)
    print(table, flush=True)
    return table


def kills(held: Map, rows: Rows, server: Server, first: int, times: int) -> list[dict[str, Any]]:
    """The server is killed at random moments of an insertion, started again, and the map repaired."""
    random, table = np.random.default_rng(11), []
    first = _next(first)
    for _ in range(times):
        after = float(random.uniform(0.2, 6.0))
        before = len(held)
        timer = threading.Timer(after, server.kill)
        timer.start()
        try:
            rows.insert(held.folder, first, BLOCK)
            stopped = "not"
        except SearchError as error:
            stopped = str(error)[:60]
        timer.join()
        first += BLOCK
        server.start()
        os.environ[URI_VARIABLE] = server.uri
        collection = fresh(held)
        done = held.repair()
        row: dict[str, Any] = {"killed_after_s": round(after, 2), "insertion_stopped": stopped != "not"}
        row |= {"added_to_map": len(held) - before, "repair": [text.split(": ")[-1] for text in done]}
        row |= {"verify_after": held.verify(), "rows_minus_images": count(collection) - len(held)}
        table.append(row)
        print(row, flush=True)
    return table


def fresh(held: Map) -> MilvusCollection:
    """A connection to the server that was started again, as soon as it has its data back and answers."""
    for _ in range(120):
        held._search = None
        try:
            collection = collection_of(held)
            collection.require(None)
            return collection
        except SearchError:
            time.sleep(1)
    raise SystemExit("the server does not come back")


def collection_row(collection: MilvusCollection, number: int) -> dict[str, Any]:
    found = collection._read(f"id == {number}", ["*"])[0]
    return dict(found)


def collection_of(held: Map) -> MilvusCollection:
    with held.reading() as (manifest, _):
        search = held._searching(manifest)
    assert isinstance(search, MilvusSearch)
    return search.collection


def indexed(collection: MilvusCollection) -> None:
    """Seal what was put, and wait until all of it has its index."""
    client = collection._client
    client.flush(collection.name, timeout=600)
    while True:
        state = client.describe_index(collection.name, "vector")
        if int(state.get("pending_index_rows", 0) or 0) == 0 and state.get("state", "Finished") == "Finished":
            break
        time.sleep(0.5)
    client.refresh_load(collection.name, timeout=600)


def count(collection: MilvusCollection) -> int:
    """Rows of the collection, without its marker."""
    found = collection._client.query(
        collection.name, filter=f"id != {MARKER}", output_fields=["count(*)"], consistency_level="Strong"
    )
    return int(found[0]["count(*)"])


def by_faiss(held: Map, queries: Floats, prior: dict[str, Any] | None) -> list[list[int]]:
    """Ids of the exact first hundred, best first."""
    with held.reading() as (manifest, snapshot):
        allowed = None if prior is None else prior_of(prior)
        found = SegmentSearch().search(manifest, snapshot, queries, TOP, allowed)
        places = [manifest.at_rows([(each.segment, each.row) for each in some]) for some in found]
    return [[image.id for image in some] for some in places]


def prior_of(prior: dict[str, Any]) -> Prior:
    made = Prior.of(**{**dict.fromkeys(("near", "radius_m", "since", "until")), "where": "", **prior})
    assert made is not None
    return made


def ids(found: Sequence[Sequence[Any]]) -> list[list[int]]:
    return [[each.id for each in some] for some in found]


def overlap(found: Sequence[Sequence[int]], exact: Sequence[Sequence[int]]) -> float:
    shares = [len(set(one) & set(two)) / len(two) for one, two in zip(found, exact, strict=True) if two]
    return round(float(np.mean(shares)), 4) if shares else 1.0


def timed(work: Callable[[], Any]) -> float:
    started = time.perf_counter()
    work()
    return round(time.perf_counter() - started, 4)


def percentiles(seconds: Sequence[float]) -> dict[str, float]:
    return {f"p{share}_ms": round(1000 * float(np.quantile(seconds, share / 100)), 2) for share in (50, 95)}


def mega(count: int) -> int:
    return round(count / 2**20)


def require(truth: bool) -> None:
    if not truth:
        raise SystemExit("the map and Milvus differ after a change")


def _next(images: int) -> int:
    """The first row of a block that was not inserted."""
    return -(-images // BLOCK) * BLOCK


if __name__ == "__main__":
    main()
