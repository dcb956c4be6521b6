"""Weights from files: recognised by content, read without running code in them, unwrapped, loaded strictly."""

from __future__ import annotations

import hashlib
import pickle
import re
import stat
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping, Set
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from vpr.core import VprError

if TYPE_CHECKING:  # importing torch takes a second that listing the weights need not wait for
    from torch import Tensor, nn

METADATA_KEY = "vpr"  # of the metadata in which a weight file keeps its record, as JSON
WRAPPERS = ("state_dict", "model_state_dict", "model")  # keys under which checkpoints keep the weights
PARTS = ("net", "extractor", "matcher")  # the same, where a checkpoint may hold several networks: taken if it holds one
PREFIXES = ("model.", "matcher.", "net.")  # of all names in a file, when a network was a part of another
CONTAINERS = ("module", "_orig_mod")  # parts of names that DataParallel and torch.compile add at any depth
DEEPEST = 4  # wrappers inside each other; a hostile checkpoint may hold itself
NUMPY = [  # what pickles of its scalars and arrays name
    "numpy.dtype",
    "numpy.ndarray",
    *(f"numpy.{core}.multiarray.{name}" for core in ("core", "_core") for name in ("scalar", "_reconstruct")),
]


class WeightsError(VprError):
    """A file of weights that is missing, unsafe, damaged, or not for this network."""


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """The named tensors of a safetensors file, a torch checkpoint or a MATLAB network, told by content, not by name.

    Torch checkpoints are read with ``weights_only=True`` and unwrapped: one that holds other objects is refused, since
    reading it would run code it contains. So is a file with a value that is not finite. A MATLAB network's tensors
    are named like ``layers.30.weights.0`` and keep MATLAB's axes.
    """
    with _explained(path):
        tensors = unwrap(_content_of(path), path)
        broken = [key for key, value in tensors.items() if not _is_finite(value)]
        if broken:
            raise WeightsError(
                f"{path}: {_printable(broken[0])} has values that are not finite"
                f"{f', as have {len(broken) - 1} more tensors' if broken[1:] else ''}; the file is damaged or its "
                "training diverged, so it is refused"
            )
    return tensors


def _is_finite(value: Tensor) -> bool:
    """Whether all values are finite; of floating-point tensors by their extremes, which is one pass."""
    import torch

    if not value.is_floating_point() or not value.numel():
        return True
    return bool(torch.stack(torch.aminmax(value)).isfinite().all())


def read_metadata(path: Path) -> str | None:
    """The record that ``vpr`` wrote into a file, as JSON; None if there is none.

    A safetensors file has it in its header, a torch checkpoint in the metadata of the state_dict, which torch keeps
    beside the tensors and ``load_state_dict`` ignores.
    """
    from safetensors import safe_open

    with _explained(path):
        with path.open("rb") as file:
            head = file.read(9)
        if head[8:9] == b"{":
            with safe_open(path, framework="np") as weights:
                return (weights.metadata() or {}).get(METADATA_KEY)
        about = getattr(_content_of(path), "_metadata", None) if head.startswith((b"PK\x03\x04", b"\x80")) else None
        text = about.get(METADATA_KEY) if isinstance(about, Mapping) else None
        return text if isinstance(text, str) else None


def _content_of(path: Path) -> Any:
    if not stat.S_ISREG(path.stat().st_mode):
        raise WeightsError(f"{path}: not a file of weights but a folder or device")
    with path.open("rb") as file:
        return _reader_of(file, path)(file, path)


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Turn whatever reading a damaged file raises into a sentence."""
    try:
        yield
    except WeightsError:
        raise
    except FileNotFoundError:
        raise WeightsError(f"{path}: no such file") from None
    except Exception as error:  # damaged bytes make the readers of these formats raise nearly anything
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise WeightsError(f"{path}: damaged, or not a file of weights: {_printable(reason)}") from None


def unwrap(content: Any, path: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint: those in ``state_dict`` and the like, without what wrappers add to names."""
    from torch import Tensor

    for _ in range(DEEPEST):
        if not isinstance(content, Mapping):
            break
        inner = [content[key] for key in WRAPPERS if isinstance(content.get(key), Mapping)]
        networks = [key for key in PARTS if isinstance(content.get(key), Mapping)]
        if not inner and len(networks) > 1:
            raise WeightsError(f"{path}: holds several networks ({', '.join(networks)}); save the one you mean alone")
        content = next(iter([*inner, *(content[key] for key in networks)]), content)
    if not isinstance(content, Mapping):
        raise WeightsError(f"{path}: holds {type(content).__name__}, expected a dictionary of tensors")
    tensors = {str(key): value for key, value in content.items() if isinstance(value, Tensor)}
    if not tensors:
        raise WeightsError(f"{path}: holds no tensors")
    for key, value in tensors.items():  # networks take their sizes from these
        if value.numel() * value.element_size() > value.untyped_storage().nbytes():
            raise WeightsError(f"{path}: {_printable(key)} claims more values than it has, so the file is refused")
    return _without_prefix(
        {".".join(part for part in key.split(".") if part not in CONTAINERS): value for key, value in tensors.items()}
    )


def _without_prefix(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors without a prefix that all their names have."""
    for _ in range(DEEPEST):
        prefix = next((each for each in PREFIXES if all(key.startswith(each) for key in tensors)), "")
        tensors = {key.removeprefix(prefix): value for key, value in tensors.items()}
    return _without_unknown_prefix(tensors)


def _without_unknown_prefix(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors without whatever prefix they share, if only without it they are of a known layout."""
    from vpr.weights.recognition import recognise

    inner = tensors
    for _ in range(DEEPEST):
        if recognise(inner) is not None:
            return inner
        first = next(iter(inner)).partition(".")[0] + "."
        if not all(key.startswith(first) for key in inner):
            break
        inner = {key.removeprefix(first): value for key, value in inner.items()}
    return tensors


def load_strictly(model: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Load into a network; raises WeightsError that names missing and unused keys, and shapes that differ.

    A network may name patterns of keys, ``unused_keys``, that published files have and nothing reads.
    """
    wanted = model.state_dict()
    harmless = [re.compile(pattern) for pattern in getattr(model, "unused_keys", ())]
    state = {key: value for key, value in state.items() if not any(each.fullmatch(key) for each in harmless)}
    problems = [
        some("missing", wanted.keys() - state.keys()),
        some("not used", state.keys() - wanted.keys()),
        some("of another shape", {k for k in wanted.keys() & state.keys() if wanted[k].shape != state[k].shape}),
    ]
    found = [problem for problem in problems if problem]
    if found:
        raise WeightsError(f"{source}: not weights of {type(model).__name__}: {'; '.join(found)}")
    model.load_state_dict(dict(state))


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def some(what: str, keys: Set[str], most: int = 5) -> str:
    """Returns the number of keys and the first few of them; "" for none."""
    if not keys:
        return ""
    shown = ", ".join(_printable(key) for key in sorted(keys)[:most])
    return f"{what} {len(keys)} keys ({shown}{', ...' if len(keys) > most else ''})"


def _printable(text: str, longest: int = 200) -> str:
    """Text from a file, without what would make a terminal do things."""
    return (text if text.isprintable() else ascii(text))[:longest]


def _reader_of(file: BinaryIO, path: Path) -> Callable[[BinaryIO, Path], Any]:
    """The reader for what the file's first bytes say it is."""
    head = file.read(512)
    file.seek(0)
    if head.startswith(b"PK\x03\x04"):
        return _read_zip
    if head.startswith(b"MATLAB 5.0"):
        return _read_matlab
    if head[8:9] == b"{":
        return _read_safetensors
    if head.startswith(b"\x80"):
        return _read_torch
    raise WeightsError(f"{path}: not a file of weights: {_what_it_is(head)}")


def _what_it_is(head: bytes) -> str:
    if not head:
        return "it is empty"
    if head[257:262] == b"ustar":
        return "a tar archive; if it is a checkpoint of torch before 0.1.10, load and save it with torch 1 first"
    if head.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer; fetch the file itself"
    if head.startswith(b"MATLAB 7.3") or head.startswith(b"\x89HDF"):
        return "HDF5; save a MATLAB file of this kind with -v7"
    if head.lstrip()[:1] == b"<":
        return "a web page; the address it came from has moved or asks for a login"
    return f"it begins with {head[:16]!r}"


def _read_zip(file: BinaryIO, path: Path) -> Any:
    with zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
    names = [entry.filename for entry in entries]
    if any("/code/" in name or name.endswith("/constants.pkl") for name in names):
        raise WeightsError(
            f"{path}: a TorchScript archive, which holds code, so it is refused; "
            "if you trust its source, save the state_dict of the module in it"
        )
    if not any(name.endswith("data.pkl") for name in names):
        raise WeightsError(f"{path}: a zip archive that is no torch checkpoint; unpack it and give the file inside")
    # A few kilobytes can unpack to any size, so no archive may hold more than itself. Torch never compresses.
    if sum(entry.file_size for entry in entries) > path.stat().st_size:
        raise WeightsError(f"{path}: its parts claim to be larger than the file, so it is refused")
    file.seek(0)
    return _read_torch(file, path)


def _read_torch(file: BinaryIO, path: Path) -> Any:
    import torch

    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals([(_Ignored, name) for name in NUMPY]):
            warnings.simplefilter("ignore")  # of odd pickles, which then are refused
            return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        named = re.search(r"GLOBAL (\S+)", str(error))
        held = f"{_printable(named[1])}, which is no tensor" if named else "other objects than tensors"
        raise WeightsError(
            f"{path}: a pickle that holds {held}; reading it could run code, so it is refused. "
            "If you trust its source, save its state_dict with safetensors.torch.save_file first"
        ) from None


class _Ignored:
    """Stands for what a checkpoint holds of numpy: training scripts keep recalls beside the weights.

    Numpy's own objects would be built from the file's word, and dtype.__setstate__ can be made to crash.
    """

    def __init__(self, *arguments: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass


def _read_safetensors(file: BinaryIO, path: Path) -> Any:
    from safetensors.torch import load_file

    return load_file(path)


def _read_matlab(file: BinaryIO, path: Path) -> Any:
    import numpy as np
    import torch

    from vpr.weights.matlab import read_variable

    net = read_variable(memoryview(file.read()), "net")
    layers = net.get("layers") if isinstance(net, dict) else None
    if not isinstance(layers, list):
        raise WeightsError(f"{path}: a MATLAB file without the struct net, with the list layers, of a network")
    arrays = {
        f"layers.{i}.weights.{j}": array
        for i, layer in enumerate(layers)
        if isinstance(layer, dict) and isinstance(layer.get("weights"), list)
        for j, array in enumerate(layer["weights"])
    }
    with suppress(KeyError, TypeError):
        arrays["meta.normalization.averageImage"] = net["meta"]["normalization"]["averageImage"]
    return {
        name: torch.from_numpy(np.array(array.ravel() if array.ndim == 2 and 1 in array.shape else array))
        for name, array in arrays.items()
        if isinstance(array, np.ndarray)
    }
