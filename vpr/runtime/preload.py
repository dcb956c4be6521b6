"""Loads torch's shared libraries in a thread, while the interpreter imports what a command needs besides."""

from __future__ import annotations

import ctypes
import os
import sys
import threading
from importlib.util import find_spec
from pathlib import Path

LIBRARIES = ("libtorch_global_deps.so", "libtorch_python.so")  # in the order in which torch loads them


def preload_torch() -> threading.Thread | None:
    """The thread that loads the libraries, which a later ``import torch`` then finds loaded; None where there are none.

    Loading them takes a fifth of ``import torch``. It is done by a foreign call of dlopen, since ``ctypes.CDLL`` and
    imports hold the lock of the interpreter. Only for Linux; the process does not end before the thread does.
    """
    spec = find_spec("torch") if sys.platform == "linux" and "torch" not in sys.modules else None
    if spec is None or spec.origin is None:
        return None
    paths = [Path(spec.origin).parent / "lib" / name for name in LIBRARIES]
    if not all(path.is_file() for path in paths):
        return None
    thread = threading.Thread(target=_load, args=(paths,), name="preload")
    thread.start()
    return thread


def _load(paths: list[Path]) -> None:
    dlopen = ctypes.CDLL(None).dlopen
    dlopen.argtypes, dlopen.restype = (ctypes.c_char_p, ctypes.c_int), ctypes.c_void_p
    for path, scope in zip(paths, (os.RTLD_GLOBAL, os.RTLD_LOCAL), strict=True):
        dlopen(os.fsencode(path), os.RTLD_NOW | scope)  # a failure is told by the import
