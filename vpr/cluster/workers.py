"""Units computed by actors of a Ray cluster: Ray places them, starts them again elsewhere, and repeats their calls."""

from __future__ import annotations

import hashlib
import logging
import os
import pickle
import socket
import time
from collections.abc import Callable, Generator, Sequence
from typing import Any

from vpr import __version__
from vpr.cluster.staging import Staging
from vpr.core import ConfigError, DataError, VprError
from vpr.runtime.units import Computed, Methods, WorkUnit

logger = logging.getLogger(__name__)

AT_ONCE = 2  # units of a worker: one computed, one waiting, so that it is never idle
TRIES = 6  # of a unit, the others after its worker died
PATIENCE_S = 15.0  # without a result; then the places of idle workers are given up
SILENCE_S = 60.0  # without a result; then it is said that nothing comes


class UnitActor:
    """Computes units on one machine; made by Ray, as an actor."""

    def __init__(self, staging: str, token: str, version: str, folder: str, tries: int) -> None:
        self.token, self.version, self.folder, self.tries = token, version, folder, tries
        self.staging = Staging(staging)
        self.built: tuple[str, Any] = "", None  # digest of what was built, and the methods

    def compute(self, digest: str, build: list[Any], unit: WorkUnit[Any]) -> None:
        """Leave the result of a unit in the staging place. ``build`` is Ray's reference of what makes its methods."""
        if not self.built[0]:
            self._require_same()
        if self.built[0] != digest:
            import ray

            self.built = digest, pickle.loads(ray.get(build[0]))()
        self.staging.count_try(unit.key, self.token, self.tries)
        self.staging.put(unit.key, unit.compute(self.built[1]).to_bytes())
        self.staging.forget_tries(unit.key, self.token)

    def _require_same(self) -> None:
        """Raise an error unless this machine has the version and sees the staging place of the first one."""
        where = socket.gethostname()
        if __version__ != self.version:
            raise ConfigError(f"{where} has vpr {__version__}, this machine {self.version}; install one version on all")
        self.staging.require(self.token, where)
        if os.path.isdir(self.folder):  # for relative paths; else they are not found, which is said
            os.chdir(self.folder)


class RayWorkers:
    """Actors on the machines of a Ray cluster, each with ``cpus`` processors and ``gpus`` GPUs."""

    def __init__(self, ray: Any, staging: Staging, *, cpus: int, gpus: float) -> None:
        self.ray = ray
        self.staging = staging
        self.threads = cpus
        self.gpus = gpus
        self.actors: list[Any] = []
        self._token = ""
        self._references: dict[str, Any] = {}  # of what makes the methods, by its digest

    def compute(
        self, build: Callable[[], Methods], units: Sequence[WorkUnit[Methods]], *, kept: int = 1
    ) -> Generator[Computed, None, None]:
        """See Workers. Raises DataError for a unit whose workers die again and again, and what a unit raises."""
        self._token = self._token or self.staging.begin()
        job = _Job(self, build, units)
        for place in range(len(units)):
            yield job.result(place)
            if place >= kept:
                self.staging.delete(units[place - kept].key)
        for unit in units[max(0, len(units) - kept) :]:
            self.staging.delete(unit.key)

    def start(self, wanted: int) -> None:
        """As many actors as are wanted, and as fit on the machines that are there."""
        count = min(self.most(), wanted) - len(self.actors)
        # Without a limit, since Ray counts each attempt to reach a machine that is lost; tries of a unit are counted.
        how = {"num_cpus": self.threads, "num_gpus": self.gpus, "max_restarts": -1, "max_task_retries": -1}
        kind = self.ray.remote(**how)(UnitActor)
        for _ in range(count):
            self.actors.append(kind.remote(self.staging.place, self._token, __version__, os.getcwd(), TRIES))

    def give_up(self, actors: Sequence[Any]) -> None:
        """End some actors, so that their places are free."""
        for actor in actors:
            self.actors.remove(actor)
            self.ray.kill(actor)

    def close(self) -> None:
        self.give_up(list(self.actors))
        if self._token:
            self.staging.end()

    def reference(self, build: Callable[[], Any]) -> tuple[str, Any]:
        """Digest and Ray's reference of what makes methods; it is sent to each machine once."""
        data = self.ray.cloudpickle.dumps(build)
        digest = hashlib.blake2b(data, digest_size=16).hexdigest()
        if digest not in self._references:
            self._references = {digest: self.ray.put(data)}
        return digest, self._references[digest]

    def most(self) -> int:
        """Number of workers that fit on the machines that are there. Raises ConfigError if there is none."""
        fitting = 0
        for node in self.ray.nodes():
            has = node["Resources"] if node["Alive"] else {}
            by_gpus = int(has.get("GPU", 0) / self.gpus + 1e-6) if self.gpus else self.threads * 10**6
            fitting += min(int(has.get("CPU", 0)) // self.threads, by_gpus)
        if not fitting:
            raise ConfigError(
                f"no machine of the cluster has {self.threads} processors and {self.gpus:g} GPUs for a worker; "
                "ask for fewer (--worker-cpus, --worker-gpus)"
            )
        return fitting


class _Job:
    """The units of one call: those that wait, those that are computed, those that are there."""

    def __init__(self, workers: RayWorkers, build: Callable[[], Any], units: Sequence[WorkUnit[Any]]) -> None:
        self.workers, self.ray, self.staging, self.units = workers, workers.ray, workers.staging, units
        self.digest, self.build = workers.reference(build)
        there = self.staging.keys()
        self.done = {place for place, unit in enumerate(units) if unit.key in there}
        self.waiting = [place for place in reversed(range(len(units))) if place not in self.done]
        self.running: dict[Any, tuple[int, Any]] = {}  # unit and actor by Ray's reference of the call
        self.spoken = time.monotonic()  # when there was a result, or it was said that there is none
        if self.done:
            logger.info("%d of %d units were computed before", len(self.done), len(units))

    def result(self, place: int) -> Computed:
        """The result of a unit, waited for; computed once more if what is there is damaged."""
        for _ in range(2):
            self._advance(0)
            while place not in self.done:
                self._advance(PATIENCE_S)
            data = self.staging.get(self.units[place].key)
            if data is not None:
                return Computed.of_bytes(data)
            self.done.remove(place)
            self.waiting.append(place)
        raise DataError(f"{self.staging.place}: what is written there does not stay; give another place (--staging)")

    def _advance(self, patience_s: float) -> None:
        """Hand out units and take in what was computed; waits for the first result at most so long."""
        self._hand_out()
        if not self.running:
            return
        ready, _ = self.ray.wait(list(self.running), num_returns=len(self.running), timeout=0)
        if not ready and patience_s:
            ready, _ = self.ray.wait(list(self.running), num_returns=1, timeout=patience_s)
            if not ready:
                # Actors of a machine that was lost wait to be started again, until there is a place for them.
                load = self._load()
                self.workers.give_up([actor for actor in self.workers.actors if not load[actor]])
                self._say_silence()
        for reference in ready:
            place, _ = self.running.pop(reference)
            self._require(reference)
            self.done.add(place)
            self.spoken = time.monotonic()
        self._hand_out()

    def _say_silence(self) -> None:
        if time.monotonic() - self.spoken > SILENCE_S:
            logger.warning(
                "no result for %.0f s: %d units are with %d workers; `ray status` says which machines there are",
                time.monotonic() - self.spoken,
                len(self.running),
                len(self.workers.actors),
            )
            self.spoken = time.monotonic()

    def _require(self, reference: Any) -> None:
        """Raise what the computation of a unit raised. Ray wraps errors of the worker, with its traceback."""
        errors = self.ray.exceptions
        try:
            self.ray.get(reference)
        except errors.RayTaskError as error:
            if isinstance(error.cause, VprError | OSError | MemoryError):
                raise error.cause from None
            raise
        except errors.RayError as error:
            said = " ".join(str(error).split())
            raise DataError(f"a unit was lost; run the command again. Ray says: {said[:400]}") from None

    def _hand_out(self) -> None:
        """As many units to each actor as it may have."""
        if self.waiting and not self.workers.actors:
            self.workers.start(len(self.waiting))
        load = self._load()
        for _ in range(AT_ONCE):
            for actor in self.workers.actors:
                if self.waiting and load[actor] < AT_ONCE:
                    place = self.waiting.pop()
                    call = actor.compute.remote(self.digest, [self.build], self.units[place])
                    self.running[call] = (place, actor)
                    load[actor] += 1

    def _load(self) -> dict[Any, int]:
        """Number of units by actor."""
        load = dict.fromkeys(self.workers.actors, 0)
        for _, actor in self.running.values():
            load[actor] += 1
        return load
