"""The machine a run is on: device, threads, versions."""

from __future__ import annotations

import os
import platform
import sys
import time
from importlib.metadata import PackageNotFoundError, version

import torch

from vpr.core import ConfigError

LIBRARIES = ("vpr", "torch", "faiss-cpu", "faiss-gpu", "opencv-python-headless", "numpy")


def device_of(name: str) -> torch.device:
    """The device of that name, "auto" for CUDA where there is one; raises ConfigError for one that is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError):  # torch says either
        raise ConfigError(f'machine.device = {name!r} is not available here; "auto" takes what there is') from None
    return device


def threads_of(count: int) -> int:
    """The count, or one per core for 0."""
    return count or os.cpu_count() or 1


def peak_memory() -> int | None:
    """Most bytes of main memory that this process has held so far; None where the system does not say."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def peak_gpu_memory() -> int | None:
    """Most bytes of GPU memory that tensors have held so far; None if no GPU is in use."""
    return torch.cuda.max_memory_allocated() or None


def facts(command: str, device: torch.device) -> dict[str, str]:
    """Command, date, versions and machine, as a report states them."""
    gpu = f", {torch.cuda.get_device_name(device)}" if device.type == "cuda" else ", no GPU"
    return {
        "command": command,
        "date": time.strftime("%Y-%m-%d %H:%M"),
        "versions": ", ".join(filter(None, map(_version, LIBRARIES))),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores{gpu}, Python {platform.python_version()}",
    }


def _version(library: str) -> str:
    try:
        return f"{library} {version(library)}"
    except PackageNotFoundError:
        return ""
