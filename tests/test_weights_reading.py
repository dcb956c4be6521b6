"""Reading any file of weights: told by its content, unwrapped, and never running code in it."""

from __future__ import annotations

import io
import json
import os
import pickle
import random
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from scipy.io import loadmat, savemat
from torch import Tensor

from vpr.weights import WeightsError, read_checkpoint
from vpr.weights.matlab import read_variable
from vpr.weights.recognition import recognise

STATE = {"conv.weight": torch.arange(6.0).reshape(2, 3), "conv.bias": torch.ones(2)}


def same(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> bool:
    return found.keys() == wanted.keys() and all(torch.equal(found[key], wanted[key]) for key in wanted)


def wrapped(path: Path, content: Any, legacy: bool = False) -> Path:
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    return path


@pytest.mark.parametrize(
    "content",
    [
        STATE,
        {"state_dict": STATE, "num_pcs": 4096},
        {"model_state_dict": STATE, "n_iter": 3, "loss": torch.tensor(1.0)},
        {"model": {"state_dict": STATE}},
        {"module.conv.weight": STATE["conv.weight"], "conv.module.bias": STATE["conv.bias"]},
        # What training scripts leave beside the weights.
        {"state_dict": STATE, "recalls": {np.int64(1): np.float64(0.5)}, "best_score": np.ones(2)},
    ],
    ids=["bare", "state_dict", "model_state_dict", "model", "module", "numpy"],
)
@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_a_checkpoint_is_unwrapped(tmp_path: Path, content: Any, legacy: bool) -> None:
    assert same(read_checkpoint(wrapped(tmp_path / "a.pth.tar", content, legacy)), STATE)


def test_numpy_objects_are_not_built(tmp_path: Path) -> None:
    """This state of a dtype, one entry too short, makes numpy crash."""
    data = torch_bytes({"state_dict": STATE, "best": np.float64(1)}, legacy=True)
    assert data.count(b"NNNJ") == 1
    (tmp_path / "a.pth").write_bytes(data.replace(b"NNNJ", b"N\x80NJ"))
    assert same(read_checkpoint(tmp_path / "a.pth"), STATE)


def test_the_content_decides_not_the_name(tmp_path: Path) -> None:
    save_file(STATE, tmp_path / "a.pth")
    wrapped(tmp_path / "b.safetensors", STATE)
    wrapped(tmp_path / "c.mat", STATE)
    assert all(same(read_checkpoint(tmp_path / name), STATE) for name in ("a.pth", "b.safetensors", "c.mat"))


def test_a_checkpoint_that_holds_itself_ends(tmp_path: Path) -> None:
    content: dict[str, Any] = {"a": torch.ones(1)}
    content["model"] = content
    assert read_checkpoint(wrapped(tmp_path / "a.pth", content)).keys() == {"a"}


class Hostile:
    """Unpickling it creates the file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return os.mkdir, (str(self.path),)


def hostile_tar(hostile: Hostile) -> bytes:
    """As torch wrote checkpoints in its first year."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as archive:
        for name in ("storages", "tensors", "pickle"):
            content = pickle.dumps(hostile)
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return data.getvalue()


def torch_bytes(content: Any, legacy: bool = False) -> bytes:
    data = io.BytesIO()
    torch.save(content, data, _use_new_zipfile_serialization=not legacy)
    return data.getvalue()


def zipped(entries: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", method) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return data.getvalue()


HOSTILE: dict[str, tuple[Callable[[Hostile], bytes], str]] = {
    "pickle": (lambda each: pickle.dumps(each, protocol=2), "a pickle that holds posix.mkdir, which is no tensor"),
    "newer pickle": (lambda each: pickle.dumps({"a": each}, protocol=4), "a pickle that holds other objects"),
    "oldest pickle": (lambda each: pickle.dumps({"a": each}, protocol=0), "not a file of weights"),
    "beside the weights": (lambda each: torch_bytes({"state_dict": STATE, "x": each}), "posix.mkdir.*run code"),
    "legacy": (lambda each: torch_bytes({"state_dict": STATE, "x": each}, legacy=True), "posix.mkdir.*run code"),
    "tar": (hostile_tar, "a tar archive"),
    "TorchScript": (lambda each: zipped({"a/data.pkl": b"", "a/code/a.py": b"import os"}), "a TorchScript archive"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_code_is_refused_and_not_run(tmp_path: Path, name: str) -> None:
    make, sentence = HOSTILE[name]
    trap = tmp_path / "trap"
    path = tmp_path / "weights.pth"
    path.write_bytes(make(Hostile(trap)))
    with pytest.raises(WeightsError, match=sentence):
        read_checkpoint(path)
    assert not trap.exists()


def test_the_trap_of_these_tests_works(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Hostile(tmp_path / "trap")))
    assert (tmp_path / "trap").exists()


def safetensors_bytes(header: bytes, size: int | None = None) -> bytes:
    return struct.pack("<Q", len(header) if size is None else size) + header


HUGE = json.dumps({"a": {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 1 << 42]}}).encode()
UNUSABLE: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "it is empty"),
    "a web page": (b"\n<!doctype html><html>", "a web page"),
    "a Git LFS pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "a Git LFS pointer"),
    "text": (b"hello", "it begins with b'hello'"),
    "HDF5": (b"\x89HDF\r\n\x1a\n", "HDF5"),
    "MATLAB 7.3": (b"MATLAB 7.3 MAT-file", "HDF5; save a MATLAB file of this kind with -v7"),
    "another zip": (zipped({"a.txt": b"hello"}), "a zip archive that is no torch checkpoint"),
    "a zip bomb": (zipped({"a/data.pkl": bytes(10**6)}, zipfile.ZIP_DEFLATED), "claim to be larger than the file"),
    "a list": (torch_bytes([torch.ones(1)]), "holds list, expected a dictionary"),
    "a tensor": (torch_bytes(torch.ones(1)), "holds Tensor, expected a dictionary"),
    "no tensors": (torch_bytes({"state_dict": {"a": 1}}), "holds no tensors"),
    "a stretched tensor": (
        torch_bytes({"a": torch.ones(1).expand(10**12)}),
        "a claims more values than it has, so the file is refused",
    ),
    "a sparse tensor": (torch_bytes({"a": torch.eye(2).to_sparse()}), "damaged, or not a file of weights"),
    "cut zip": (torch_bytes(STATE)[:-30], "damaged"),
    "cut legacy": (torch_bytes(STATE, legacy=True)[:-4], "damaged"),
    "cut safetensors": (safetensors_bytes(HUGE[:-10]), "damaged"),
    "huge safetensors header": (safetensors_bytes(b"{}" + bytes(99), 1 << 62), "damaged.*header too large"),
    "huge safetensors tensor": (safetensors_bytes(HUGE) + bytes(99), "damaged"),
    "huge legacy tensor": (
        torch_bytes(STATE, legacy=True).replace(
            b"K\x06", b"\x8a\x06\0\0\0\0\0\x7f", 1
        ),  # 127 * 2**40 numbers instead of 6
        "damaged",
    ),
    "MATLAB of nothing": (b"MATLAB 5.0 MAT-file".ljust(126) + b"IM", "without the struct net"),
    "MATLAB of no order": (b"MATLAB 5.0 MAT-file".ljust(128), "damaged.*which end"),
}


@pytest.mark.parametrize("name", UNUSABLE)
def test_an_unusable_file_is_a_sentence(tmp_path: Path, name: str) -> None:
    content, sentence = UNUSABLE[name]
    path = tmp_path / "weights.pth"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=sentence) as raised:
        read_checkpoint(path)
    assert str(raised.value).startswith(f"{path}: ") and "\n" not in str(raised.value)


def test_what_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="absent: no such file"):
        read_checkpoint(tmp_path / "absent")
    with pytest.raises(WeightsError, match="a folder or device"):
        read_checkpoint(tmp_path)
    with pytest.raises(WeightsError, match="a folder or device"):
        read_checkpoint(Path("/dev/zero"))


def test_damaged_bytes_raise_nothing_but_a_sentence(tmp_path: Path) -> None:
    save_file(STATE, tmp_path / "a.safetensors")
    savemat(tmp_path / "a.mat", network())
    whole = [torch_bytes({"state_dict": STATE, "best": np.float64(1)}), torch_bytes(STATE, legacy=True)]
    whole += [(tmp_path / name).read_bytes() for name in ("a.safetensors", "a.mat")]
    dice = random.Random(0)
    for i in range(1200):
        data = bytearray(whole[i % len(whole)])
        for _ in range(dice.choice((1, 3, 20))):
            data[dice.randrange(len(data))] = dice.choice((0, 255, dice.randrange(256)))
        (tmp_path / "x").write_bytes(data[: dice.choice((None, dice.randrange(len(data))))])
        try:
            recognise(read_checkpoint(tmp_path / "x"))
        except WeightsError:
            pass


def network() -> dict[str, Any]:
    """A network in the form of the published ones, with a layer without weights."""
    layers = np.empty(3, object)
    for i in (0, 2):
        weights = np.empty(2, object)
        weights[0], weights[1] = np.arange(24, dtype=np.float32).reshape(1, 2, 3, 4) + i, np.ones(4, np.float32)
        layers[i] = {"type": "conv", "weights": weights}
    layers[1] = {"type": "relu", "weights": np.empty((0, 0))}
    return {
        "other": "x",
        "net": {"layers": layers, "meta": {"normalization": {"averageImage": np.full((2, 2, 3), 9.0)}}},
    }


@pytest.mark.parametrize("compressed", [False, True])
def test_a_matlab_network_by_scipy(tmp_path: Path, compressed: bool) -> None:
    savemat(tmp_path / "a.mat", network(), do_compression=compressed)
    state = read_checkpoint(tmp_path / "a.mat")
    wanted = loadmat(tmp_path / "a.mat", struct_as_record=False)["net"][0, 0]
    for i in (0, 2):
        weights = wanted.layers[0, i][0, 0].weights[0]
        assert (
            np.array_equal(state[f"layers.{i}.weights.0"].numpy(), weights[0])
            and state[f"layers.{i}.weights.0"].ndim == 4
        )
        assert np.array_equal(state[f"layers.{i}.weights.1"].numpy(), weights[1].ravel())
    assert state["meta.normalization.averageImage"].shape == (2, 2, 3)
    assert len(state) == 5


def element(kind: int, content: bytes, order: str = "<") -> bytes:
    return struct.pack(f"{order}II", kind, len(content)) + content + bytes(-len(content) % 8)


def matrix(kind: int, shape: tuple[int, ...], name: bytes, rest: bytes, order: str = "<") -> bytes:
    sizes = struct.pack(f"{order}{len(shape)}i", *shape)
    parts = element(6, struct.pack(f"{order}II", kind, 0), order) + element(5, sizes, order) + element(1, name, order)
    return element(14, parts + rest, order)


def mat_file(*variables: bytes, order: str = "<") -> memoryview:
    mark = b"IM" if order == "<" else b"MI"
    return memoryview(b"MATLAB 5.0 MAT-file".ljust(124) + struct.pack(f"{order}H", 0x0100) + mark + b"".join(variables))


@pytest.mark.parametrize("order", "<>")
def test_matlab_numbers_of_either_byte_order(order: str) -> None:
    stored = element(3, struct.pack(f"{order}6h", *range(6)), order)  # doubles that were stored as small integers
    found = read_variable(mat_file(matrix(6, (2, 3), b"net", stored, order), order=order), "net")
    assert found.dtype == np.float64 and found.tolist() == [[0, 2, 4], [1, 3, 5]]


def test_a_matlab_function_is_passed_over() -> None:
    function = matrix(16, (1, 1), b"net", matrix(4, (1, 1), b"", element(4, b"x\0")))
    assert read_variable(mat_file(function), "net") is None


@pytest.mark.parametrize(
    ("variable", "reason"),
    [
        (matrix(1, (1, 1 << 30), b"net", b""), "impossible shape"),
        (matrix(2, (1 << 30, 1), b"net", element(5, b"\1\0\0\0") + element(1, b"")), "impossible shape"),
        (matrix(6, (-1, -1), b"net", element(9, bytes(8))), "impossible shape"),
        (matrix(6, (1 << 30, 4), b"net", element(9, bytes(8))), "cannot reshape"),
        (matrix(6, (1, 1), b"net", element(255, bytes(8))), "type 255"),
        (matrix(6, (1, 1), b"net", element(9, bytes(8)))[:-4], "ends too soon"),
        (struct.pack("<I", 8 << 16 | 5) + bytes(4), "longer than its place"),
    ],
)
def test_impossible_matlab_data(variable: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        read_variable(mat_file(variable), "net")


def test_a_matlab_file_that_unpacks_to_a_thousand_times_its_size_is_refused_before_it_is_unpacked() -> None:
    import tracemalloc
    import zlib

    packed = zlib.compress(struct.pack("<II", 14, 60_000_000) + bytes(60_000_000), 9)
    data = b"MATLAB 5.0 MAT-file".ljust(124) + struct.pack("<H", 0x0100) + b"IM" + element(15, packed)
    assert len(data) < 100_000
    tracemalloc.start()
    with pytest.raises(ValueError, match=r"an element unpacks to more than \d MB; no weights are packed so densely"):
        read_variable(memoryview(data), "net")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20_000_000
