"""Units computed by a Ray cluster of two machines, which are processes of this one."""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from equal_maps import content_of
from maps import write_images
from test_units import RUN, SMALL_BATCHES, build_map, outcome, with_bad_ones
from typer.testing import CliRunner

from vpr.cli import app
from vpr.cluster import RayOptions, connection, on_ray, workers
from vpr.cluster.workers import RayWorkers
from vpr.core import ConfigError, DataError
from vpr.datasets import read_pair
from vpr.maps import Map, encoding, encoding_units
from vpr.runtime.units import Computed
from vpr.settings import configured

ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'vpr[cluster]'")
pytestmark = [
    pytest.mark.skipif(sys.platform == "win32", reason="no kill -9 there"),
    pytest.mark.filterwarnings("ignore"),  # those of Ray's own code
]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    from ray.cluster_utils import Cluster

    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    made.add_node(num_cpus=1)
    yield made
    made.shutdown()


@pytest.fixture(scope="module")
def connected(cluster: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayWorkers]:
    """Workers that live as long as the tests: it takes seconds to start one."""
    with on_ray(RayOptions(cluster.address), tmp_path_factory.mktemp("connected")) as made:
        assert made is not None
        yield made


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "PATIENCE_S", 2.0)


@dataclass(frozen=True)
class Squared:
    """The square of a number, in a while; what befalls the process the first time is named."""

    number: int
    marks: Path
    befalls: str = ""
    seconds: float = 0.0

    @property
    def key(self) -> str:
        return f"square-{self.number}"

    def compute(self, methods: int) -> Computed:
        times = len(list(self.marks.glob(f"{self.number}-*")))
        (self.marks / f"{self.number}-{times}").touch()
        if self.befalls == "killed for good" or (self.befalls == "killed" and not times):
            os.kill(os.getpid(), signal.SIGKILL)
        if self.befalls == "refused":
            raise DataError("the sentence of a worker")
        time.sleep(self.seconds)
        return Computed({"square": np.array(methods * self.number**2)})


def one() -> int:
    return 1


def test_units_of_killed_processes_and_of_a_lost_machine_are_computed_again(
    cluster: Any, connected: RayWorkers, tmp_path: Path
) -> None:
    third = cluster.add_node(num_cpus=1)
    units = [Squared(number, tmp_path, "killed" if number == 1 else "", 0.2) for number in range(12)]
    found = []
    for computed in connected.compute(one, units):
        found.append(int(computed.arrays["square"]))
        if len(found) == 3:
            cluster.remove_node(third, allow_graceful=False)
    assert found == [number**2 for number in range(12)]
    assert len(list(tmp_path.glob("1-*"))) == 2
    assert not connected.staging.keys()


def test_a_result_that_is_there_is_not_computed_again(connected: RayWorkers, tmp_path: Path) -> None:
    units = [Squared(number, tmp_path) for number in range(3)]
    connected.staging.put("square-0", Computed({"square": np.array(7)}).to_bytes())
    connected.staging._write("square-1.unit", b"damaged")
    assert [int(each.arrays["square"]) for each in connected.compute(one, units)] == [7, 1, 4]
    assert not list(tmp_path.glob("0-*")) and len(list(tmp_path.glob("1-*"))) == 1


def test_errors_of_workers_are_said_as_they_are(
    connected: RayWorkers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(DataError, match=r"^the sentence of a worker$"):
        next(connected.compute(one, [Squared(1, tmp_path, "refused")]))
    connected.give_up(list(connected.actors))
    monkeypatch.setattr(connected, "threads", 64)
    with pytest.raises(ConfigError, match="no machine of the cluster has 64 processors"):
        next(connected.compute(one, [Squared(3, tmp_path)]))
    monkeypatch.setattr(connected, "threads", 1)
    monkeypatch.setattr(workers, "TRIES", 1)
    with pytest.raises(DataError, match="processes that computed it died 1 times"):
        next(connected.compute(one, [Squared(2, tmp_path, "killed for good")]))
    assert len(list(tmp_path.glob("2-*"))) == 1
    connected.give_up(list(connected.actors))


def make_with_ray(folder: Path, images: Path, address: str) -> Any:
    """A map, by a cluster, in units of 4 images."""
    encoding_units.UNIT_IMAGES = 4
    encoding.FITTED_ON = encoding_units.FITTED_ON = 6
    with on_ray(RayOptions(address, staging=str(folder.parent / "staging")), folder) as made:
        return build_map(folder, images, made, **SMALL_BATCHES)


def test_a_map_made_on_ray_after_the_first_process_was_killed(
    cluster: Any, connected: RayWorkers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module, name, value in (
        (encoding_units, "UNIT_IMAGES", 4),
        (encoding_units, "FITTED_ON", 6),
        (encoding, "FITTED_ON", 6),
    ):
        monkeypatch.setattr(module, name, value)
    images = with_bad_ones(tmp_path / "images", 30)
    build_map(tmp_path / "here", images, None, **SMALL_BATCHES)
    folder = tmp_path / "there"
    child = multiprocessing.get_context("spawn").Process(target=make_with_ray, args=(folder, images, cluster.address))
    child.start()
    while child.is_alive() and not list(folder.glob("segments/*")):
        time.sleep(0.02)
    os.kill(child.pid or 0, signal.SIGKILL)
    child.join()
    assert child.exitcode == -signal.SIGKILL, "it ended before it was killed"
    added = build_map(folder, images, connected, **SMALL_BATCHES)
    assert content_of(tmp_path / "here") == content_of(folder)
    assert sorted(added.failed) == ["001.png", "004.png", "029.png"] and Map(folder).verify() == []


def test_a_run_on_ray(connected: RayWorkers, small_city: tuple[Path, Path], tmp_path: Path) -> None:
    dataset, settings = read_pair(*small_city, 25.0), configured(None, RUN)
    there = outcome(dataset, settings, tmp_path / "there", connected)
    assert outcome(dataset, settings, tmp_path / "here", None) == there
    assert not connected.staging.keys()


def said(*words: str) -> str:
    done = CliRunner().invoke(app, list(words))
    assert isinstance(done.exception, ConfigError), done.output
    return str(done.exception)


def test_sentences_of_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = str(write_images(tmp_path / "images", range(1)))
    words = ["map", "create", str(tmp_path / "city"), "--images", images, "--set", "machine.device=cpu"]
    words += ["--set", "rerank.k=0", "--set", "joined=false", "--set", "global_descriptor.method=thumbnail"]
    words += ["--set", "global_descriptor.width=32", "--set", "global_descriptor.height=16"]
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        free = silent.getsockname()[1]
        assert "nothing answers there; start a cluster with `ray start" in said(*words, "--ray", f"127.0.0.1:{free}")
        silent.listen()
        monkeypatch.setattr(connection, "ANSWERS_S", 3)
        assert "no Ray cluster, or has not answered for 3 s" in said(*words, "--ray", f"127.0.0.1:{free}")
    assert "give HOST:PORT" in said(*words, "--ray", "ray://head:10001")
    monkeypatch.setattr(connection, "find_spec", lambda name: None)
    assert "pip install 'vpr[cluster]'" in said(*words, "--ray")
