"""NumPy files that hold pickled objects, read without running code: arrays, numbers, text, lists and dictionaries."""

from __future__ import annotations

from pathlib import Path
from pickle import Unpickler, UnpicklingError
from typing import IO, Any

import numpy as np

from vpr.core import DataError
from vpr.runtime.files import require_file


class OnlyArrays(Unpickler):
    """Makes arrays and NumPy's numbers of a pickle; raises UnpicklingError for everything else that would be called."""

    def find_class(self, module: str, name: str) -> Any:
        if module.removeprefix("numpy.").lstrip("_") == "core.multiarray":
            if name == "_reconstruct":
                return np._core.multiarray._reconstruct  # type: ignore[attr-defined]
            if name == "scalar":
                return _scalar
        if module == "numpy" and name in ("ndarray", "dtype"):
            return getattr(np, name)
        raise UnpicklingError(f"it would run {module}.{name}")


def _scalar(dtype: Any, content: Any = None) -> Any:
    if not isinstance(dtype, np.dtype) or dtype.hasobject or not isinstance(content, bytes):
        raise UnpicklingError("it holds a number of an unknown kind")
    return np.frombuffer(content, dtype)[0]


def read_array(file: IO[bytes]) -> Any:
    """One array of a ``.npy`` file that is open; may raise OSError, ValueError, EOFError or UnpicklingError."""
    version = np.lib.format.read_magic(file)
    read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read_header(file)
    if dtype.hasobject:
        return np.asarray(OnlyArrays(file).load(), dtype=object).reshape(shape)
    file.seek(0)
    return np.lib.format.read_array(file, allow_pickle=False)


def read_dictionary(path: Path) -> dict[Any, Any]:
    """The dictionary that ``numpy.save`` wrote. Raises DataError for a file that holds anything else."""
    try:
        with require_file(path).open("rb") as file:
            found = read_array(file)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except Exception as error:  # a damaged pickle can raise anything
        raise DataError(f"{path}: not a NumPy file with a dictionary: {error}") from None
    content = found.item() if isinstance(found, np.ndarray) and found.shape == () else found
    if not isinstance(content, dict):
        raise DataError(f"{path}: holds {type(content).__name__}, expected a dictionary")
    return content
