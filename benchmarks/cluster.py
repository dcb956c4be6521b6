"""Make a map on a Ray cluster of processes of this machine: what it costs, and whether kills change a byte.

    python benchmarks/cluster.py cluster.json [--images 2000] [--kills 10] [--nodes 3] [--seed 0]
        [--parts overhead worker node driver]

The images are small crops of a demo city, of which two are damaged. ``overhead``: wall time of `vpr map create` by one
process, and with --ray on clusters of 1, 2, ... nodes with one processor each. ``worker``, ``node``, ``driver``: one of
these is killed by SIGKILL at random moments of the command; where the command itself (the driver) died, it is run
again, and may be killed again. Each map must have the bytes of that of one process. Parts that the file has are kept.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ.setdefault("RAY_raylet_start_wait_time_s", "120")
os.environ.setdefault("RAY_worker_niceness", "0")  # as high as the process of the comparison
sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import cv2
import psutil
import ray
import torch
from equal_maps import content_of
from ray.cluster_utils import Cluster

from vpr.cluster import RayOptions, on_ray
from vpr.config import config_path, load
from vpr.core import DataError
from vpr.demo_city import write_demo_city
from vpr.maps import Map
from vpr.maps.sources import read_images
from vpr.runtime.device import facts
from vpr.settings import Settings

Record = dict[str, Any]
PARTS = ("overhead", "worker", "node", "driver")
SETTINGS = {
    "local_features.method": "rootsift",
    "local_features.max_keypoints": 100,
    "global_descriptor.method": "thumbnail",
    "global_descriptor.width": 32,
    "global_descriptor.height": 16,
    "rerank.k": 5,
    "machine.device": "cpu",
}
SIZE = 200, 150  # of a crop
BAD = {"000077.jpg": 0, "001234.jpg": 900}  # bytes that are left of a damaged image


class Trials:
    """The images, the command, and the map of one process."""

    def __init__(self, folder: Path, count: int) -> None:
        self.folder = folder
        self.images = folder / "images"
        crops_of_a_city(self.images, folder / "source", count)
        self.alone_s = self.make("alone")
        self.alone = content_of(folder / "alone")
        self.whole_s = 0.0  # of one command on the cluster

    def start(self, name: str, *more: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "vpr", "map", "create", str(self.folder / name), "--images", str(self.images)]
        for key, value in SETTINGS.items():
            command += ["--set", f"{key}={value}"]
        how: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        return subprocess.Popen([*command, "--positions", "none", "--config", "rootsift_vlad", *more], **how)

    def make(self, name: str, *more: str) -> float:
        """Seconds of a whole command."""
        started = time.perf_counter()
        child = self.start(name, *more)
        said, _ = child.communicate(timeout=600)
        assert child.returncode == 0, said
        return time.perf_counter() - started

    def require_equal(self, name: str) -> None:
        assert content_of(self.folder / name) == self.alone, f"{name}: other bytes"
        shutil.rmtree(self.folder / name)


def crops_of_a_city(folder: Path, source: Path, count: int) -> None:
    """Small JPEGs; which part of which image is the same in every run."""
    write_demo_city(source, places=12, seed=5)
    views = [cv2.imread(str(path)) for path in sorted(source.rglob("*.jpg"))]
    places = random.Random(5)
    folder.mkdir()
    for number in range(count):
        view = views[number % len(views)]
        height, width = view.shape[:2]
        x, y = places.randrange(width - SIZE[0] + 1), places.randrange(height - SIZE[1] + 1)
        cv2.imwrite(str(folder / f"{number:06d}.jpg"), view[y : y + SIZE[1], x : x + SIZE[0]])
    for name, left in BAD.items():
        if (folder / name).exists():
            (folder / name).write_bytes((folder / name).read_bytes()[:left])


class Nodes:
    """A cluster of processes of this machine, each node with one processor."""

    def __init__(self, count: int) -> None:
        self.cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
        self.others = [self.cluster.add_node(num_cpus=1) for _ in range(count - 1)]
        self.address = str(self.cluster.address)

    def kill_one(self, chance: random.Random) -> None:
        """SIGKILL all processes of a node other than the first."""
        lost = chance.choice(self.others)
        self.others.remove(lost)
        self.cluster.remove_node(lost, allow_graceful=False)

    def fill(self, count: int) -> None:
        while len(self.others) < count - 1:
            self.others.append(self.cluster.add_node(num_cpus=1))

    def close(self) -> None:
        self.cluster.shutdown()


def overhead(trials: Trials, most: int) -> dict[str, Any]:
    found: dict[str, Any] = {"one process": {"s": round(trials.alone_s, 1)}}
    for count in range(1, most + 1):
        nodes = Nodes(count)
        try:
            seconds = trials.make("ray", "--ray", nodes.address)
        finally:
            nodes.close()
        trials.require_equal("ray")
        found[f"{count} nodes"] = {"s": round(seconds, 1), "of one process": round(seconds / trials.alone_s, 2)}
        print(count, found[f"{count} nodes"], flush=True)
    return found


def driver_kills(trials: Trials, nodes: Nodes, count: int, chance: random.Random) -> Iterator[Record]:
    """Kill the process that makes a map; then another goes on, to be killed too, or to end with the same bytes."""
    moments: list[list[Any]] = []
    maps = 0
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["vpr.maps", "vpr.cluster", "ray"])
    while len(moments) < count:
        folder = trials.folder / f"driver-{maps}"
        moment = chance.uniform(0, trials.whole_s)
        child = processes.Process(target=make_on, args=(folder, trials.images, nodes.address))
        child.start()
        child.join(moment)
        child.kill()
        child.join()
        if child.exitcode == -signal.SIGKILL:
            moments.append([round(moment, 1), committed(folder)])
            print(f"driver {len(moments)}: killed at {moment:.1f} s, {moments[-1][1]} images committed", flush=True)
        if child.exitcode == 0 or chance.random() < 0.4 or len(moments) == count:
            child = processes.Process(target=make_on, args=(folder, trials.images, nodes.address))
            child.start()
            child.join()
            assert child.exitcode == 0
            trials.require_equal(folder.name)
            maps += 1
            print(f"map {maps}: equal", flush=True)
        yield {"kills": len(moments), "equal maps": maps, "at_s and images committed": list(moments)}


def make_on(folder: Path, images: Path, address: str) -> None:
    """What `vpr map create --ray` does."""
    with on_ray(RayOptions(address), folder) as workers:
        make_by(workers, folder, images)


def make_by(workers: Any, folder: Path, images: Path) -> None:
    overrides = [f"{key}={value}" for key, value in SETTINGS.items()]
    held = Map.begin(folder, load(Settings, config_path("rootsift_vlad"), overrides))
    root, placed = read_images(images, "none")
    held.add_placed(placed, root, workers=workers)
    held.compact()
    held.close()


def kills(what: str, trials: Trials, nodes: Nodes, count: int, chance: random.Random) -> Iterator[Record]:
    """Kill workers or nodes while maps are made, which must end with the bytes of one process."""
    size = len(nodes.others) + 1
    struck = maps = 0
    with on_ray(RayOptions(nodes.address), trials.folder / f"{what}-work") as workers:
        make_by(workers, trials.folder / what, trials.images)  # starts the workers
        trials.require_equal(what)
        while struck < count:
            folder = trials.folder / f"{what}-{maps}"
            with ThreadPoolExecutor(1) as pool:
                began = time.perf_counter()
                making = pool.submit(make_by, workers, folder, trials.images)
                while not making.done() and struck < count:
                    wait([making], timeout=chance.uniform(0, trials.alone_s / 4))
                    if making.done() or not strike(what, nodes, chance):
                        continue
                    struck += 1
                    print(f"{what} {struck}: killed after {time.perf_counter() - began:.1f} s", flush=True)
                making.result()
            trials.require_equal(folder.name)
            maps += 1
            print(f"map {maps}: equal", flush=True)
            nodes.fill(size)
            yield {"kills": struck, "equal maps": maps}


def strike(what: str, nodes: Nodes, chance: random.Random) -> bool:
    """Kill a worker or a node; False if there is none."""
    if what == "node":
        if not nodes.others:
            return False
        nodes.kill_one(chance)
        return True
    workers = [each for each in psutil.process_iter(["name", "cmdline"]) if is_worker(each)]
    if workers:
        chance.choice(workers).send_signal(signal.SIGKILL)
    return bool(workers)


def is_worker(process: psutil.Process) -> bool:
    return "ray::UnitActor" in " ".join(process.info["cmdline"] or [])


def committed(folder: Path) -> int:
    """Images of the map that a killed command left, all of whose bytes are read; 0 where it had not begun."""
    try:
        held = Map(folder)
    except DataError as error:
        assert "no map lies here" in str(error) or "has no image yet" in str(error)
        return 0
    with held:
        assert not [wrong for wrong in held.verify() if wrong]
        return len(held)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--nodes", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    arguments = parser.parse_args()
    record: dict[str, Any] = json.loads(arguments.out.read_text()) if arguments.out.exists() else {}
    command = f"python benchmarks/cluster.py --images {arguments.images} --kills {arguments.kills}"
    record |= facts(command, torch.device("cpu")) | {"ray": ray.__version__, "images": arguments.images, "size": SIZE}
    record |= {"settings": SETTINGS, "load_before": os.getloadavg()[0]}
    with tempfile.TemporaryDirectory() as name:
        trials = Trials(Path(name), arguments.images)
        print(f"one process: {trials.alone_s:.1f} s", flush=True)
        struck = [part for part in arguments.parts if part != "overhead"]
        if struck:
            nodes = Nodes(arguments.nodes)
            try:
                trials.whole_s = trials.make("whole", "--ray", nodes.address)
                trials.require_equal("whole")
                record["made in"] = {"one process": trials.alone_s, f"{arguments.nodes} nodes": trials.whole_s}
                for part in struck:
                    chance = random.Random(f"{arguments.seed} {part}")
                    how = (trials, nodes, arguments.kills, chance)
                    for found in driver_kills(*how) if part == "driver" else kills(part, *how):
                        record[part] = found
                        arguments.out.write_text(json.dumps(record, indent=2) + "\n")
            finally:
                nodes.close()
        if "overhead" in arguments.parts:
            record["overhead"] = overhead(trials, arguments.nodes)
            arguments.out.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
