"""The connection to a Ray cluster: one that runs, or one of this machine alone."""

from __future__ import annotations

import hashlib
import logging
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from vpr.cluster.staging import Staging
from vpr.cluster.workers import RayWorkers
from vpr.core import ConfigError

logger = logging.getLogger(__name__)

HERE = "auto"  # the cluster to which this machine belongs, or one of this machine alone
CONNECTS_S = 5
ANSWERS_S = 30  # a cluster that has not answered by then does not answer
# What a process of its own asks the head, since Ray may end the one that asks.
_ASKS = "import sys; from ray._raylet import GcsClient; print(GcsClient(address=sys.argv[1]).cluster_id)"


@dataclass(frozen=True)
class RayOptions:
    """How a job uses a Ray cluster."""

    address: str = HERE  # or HOST:PORT
    staging: str | None = None  # a folder that all machines share, or a URL; by default below what the job writes
    cpus: int = 1  # of each worker
    gpus: float | None = None  # of each worker; None: one where the cluster has any, else none


@contextmanager
def on_ray(options: RayOptions | None, folder: Path) -> Iterator[RayWorkers | None]:
    """Workers of a Ray cluster for a job that writes to ``folder``; None without options.

    Raises ConfigError if Ray is not installed, if no cluster answers at the address, or for workers that fit on no
    machine of it.
    """
    if options is None:
        yield None
        return
    if options.cpus < 1 or (options.gpus is not None and options.gpus < 0):
        raise ConfigError(f"{options.cpus} processors and {options.gpus} GPUs a worker: give at least 1 and 0")
    staging = Staging(_place(options.staging, folder))
    ray = _imported()
    _connect(ray, options.address)
    try:
        gpus = options.gpus
        if gpus is None:
            gpus = 1.0 if ray.cluster_resources().get("GPU", 0) else 0.0
        workers = RayWorkers(ray, staging, cpus=options.cpus, gpus=gpus)
        yield workers
        workers.close()
    finally:
        ray.shutdown()


def _place(chosen: str | None, folder: Path) -> str:
    own = os.path.abspath(folder)
    if chosen is None:
        return os.path.join(own, "staging")
    # Of each job its own, so that jobs may share a bucket.
    job = hashlib.blake2b(own.encode(), digest_size=8).hexdigest()
    return f"{chosen.rstrip('/') if '://' in chosen else os.path.abspath(chosen)}/{job}"


def _imported() -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is reported to anybody
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "1")  # a worker without GPUs sees none
    if find_spec("ray") is None:
        raise ConfigError("--ray needs Ray, which is not installed: pip install 'vpr[cluster]', or pip install ray")
    import ray

    return ray


def _connect(ray: Any, address: str) -> None:
    how: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address == HERE:
        found = _running_here()
        if found is None:
            logger.info("no Ray cluster runs here: its workers are processes of this machine alone")
            ray.init("local", include_dashboard=False, **how)
            return
        address = found
    _require_cluster(address)
    try:
        ray.init(address, **how)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise ConfigError(f"--ray {address}: {' '.join(str(error).split())}") from None


def _running_here() -> str | None:
    """HOST:PORT by the variable RAY_ADDRESS, or of the cluster that `ray start` made this machine a part of."""
    from ray._private.services import canonicalize_bootstrap_address

    given = os.environ.get("RAY_ADDRESS", "")
    found = given or canonicalize_bootstrap_address(None)  # type: ignore[arg-type]
    return None if found is None or not (given or _answers(found)) else str(found)


def _require_cluster(address: str) -> None:
    """Raise ConfigError unless a cluster answers: Ray itself would wait for minutes, and then end the process."""
    host, separator, port = address.rpartition(":")
    if not separator or not port.isdigit() or "://" in address:
        raise ConfigError(f"--ray {address}: give HOST:PORT, for instance 10.0.0.5:6379, on a machine of the cluster")
    if not _answers(address):
        raise ConfigError(
            f"--ray {address}: nothing answers there; start a cluster with `ray start --head --port {port}` on {host}, "
            f"and `ray start --address {address}` on the others"
        )
    command = [sys.executable, "-c", _ASKS, address]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=ANSWERS_S, check=False)
    except subprocess.TimeoutExpired:
        raise ConfigError(
            f"--ray {address}: what answers there is no Ray cluster, or has not answered for {ANSWERS_S} s"
        ) from None
    if done.returncode:
        raise ConfigError(f"--ray {address}: Ray refuses the connection: {_reason(done.stderr)}")


def _reason(said: str) -> str:
    """The last line that tells an error in what Ray printed, which may end with a trace."""
    errors = [line.strip() for line in said.splitlines() if "Error" in line and not line.startswith("  ")]
    return errors[-1] if errors else "give RAY_AUTH_MODE as the cluster has it, and its token in ~/.ray/auth_token"


def _answers(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=CONNECTS_S).close()
    except (OSError, ValueError, OverflowError):
        return False
    return True
