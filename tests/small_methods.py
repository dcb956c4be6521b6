"""Settings of every method of the tables, with small random weights where needed, for the suites over a table."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import test_aliked_disk
import test_hub
import test_imp
import test_lightglue
import test_netvlad
import test_place_descriptor
import test_resnet_descriptors
import test_superglue
import test_superpoint
import test_superpoint_global
import test_xfeat
import torch
from netvlad_weights import random_state, save_struct
from published import randomise
from safetensors.torch import save_file
from torch import Tensor, nn

from vpr.config import Method, parse
from vpr.local_features.aliked import AlikedNetwork

CPU = torch.device("cpu")
CLUSTERS, DIM = 4, 6
IMP = ("imp", "imp_iterative", "eimp", "eimp_iterative")


def _saved(state: dict[str, Tensor], folder: Path) -> dict[str, Any]:
    torch.save(state, folder / "weights.pth")
    return {"weights": str(folder / "weights.pth")}


def _network(make: Callable[[], nn.Module], folder: Path) -> dict[str, Any]:
    return _saved(make().state_dict(), folder)


def _hub(folder: Path) -> dict[str, Any]:
    (folder / "hubconf.py").write_text(test_hub.REPOSITORY)
    return {"model": "salad", "folder": folder, "trust_code": True}


def _matlab(folder: Path) -> dict[str, Any]:
    tensors = test_netvlad.matlabs(random_state(test_netvlad.CLUSTERS, test_netvlad.DIM))
    return {"weights": save_struct(folder / "net.mat", tensors, np.array([120.0, 110.0, 100.0]))}


def _superpoint_global(folder: Path) -> dict[str, Any]:
    save_file(test_superpoint_global.network().state_dict(), folder / "weights.safetensors")
    return {"weights": str(folder / "weights.safetensors")}


def _place(folder: Path) -> dict[str, Any]:
    save_file(test_place_descriptor.network().state_dict(), folder / "weights.safetensors")
    return {"weights": str(folder / "weights.safetensors")}


def _resnet18() -> nn.Sequential:
    return test_resnet_descriptors.random_backbone("resnet18")


def _mixvpr(folder: Path) -> dict[str, Any]:
    return _saved(test_resnet_descriptors.mixvpr_state(test_resnet_descriptors.random_backbone("resnet50")), folder)


def _gem(dim: int | None) -> Callable[[Path], dict[str, Any]]:
    return lambda folder: _saved(test_resnet_descriptors.published(_resnet18(), dim), folder)


SMALL_NETVLAD = {"height": 96, "width": 128}


def _aliked(folder: Path) -> dict[str, Any]:
    network = AlikedNetwork((4, 6, 8, 8), dim=16, samples=2)
    return _saved(test_aliked_disk.published_aliked(network), folder) | {"detection_threshold": 0.0}


def _disk(folder: Path) -> dict[str, Any]:
    kornia = pytest.importorskip("kornia.feature")
    return _network(kornia.DISK, folder)


def _hardnet(folder: Path) -> dict[str, Any]:
    kornia = pytest.importorskip("kornia.feature")
    return _network(lambda: randomise(kornia.HardNet(pretrained=False)), folder)


WEIGHTS: dict[str, Callable[[Path], dict[str, Any]]] = {
    "aliked": _aliked,
    "cosplace": _gem(8),
    "disk": _disk,
    "doghardnet": _hardnet,
    "eigenplaces": _gem(8),
    "gem": _gem(None),
    "hub": _hub,
    **{name: lambda folder: _network(test_imp.small, folder) for name in IMP},
    "lightglue": lambda folder: _network(test_lightglue.small, folder),
    "mixvpr": _mixvpr,
    "netvlad": lambda folder: _saved(random_state(CLUSTERS, DIM), folder) | SMALL_NETVLAD,
    "netvlad_mat": _matlab,
    "patch_netvlad": lambda folder: (
        _saved(random_state(CLUSTERS, DIM), folder) | SMALL_NETVLAD | {"patch_sizes": (1, 2), "strides": (1, 2)}
    ),
    "place": _place,
    "superglue": lambda folder: _network(test_superglue.small, folder),
    "superpoint": lambda folder: _network(test_superpoint.small, folder),
    "superpoint_global": _superpoint_global,
    "xfeat": lambda folder: _saved(test_xfeat.published_state(), folder) | {"detection_threshold": 0.0},
}


def build_small(table: dict[str, Method[Any]], name: str, folder: Path, **settings: Any) -> Any:
    """The method of that name; without weights of its own here, as its default settings have it."""
    row = table[name]
    weights = WEIGHTS[name](folder) if name in WEIGHTS else {}
    return row.build(parse(row.settings, {"method": name, **weights, **settings}), CPU)


def once(table: dict[str, Method[Any]]) -> Any:
    """A fixture of a module: each method of the table, built once."""

    @pytest.fixture(scope="module", params=sorted(table))
    def method(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
        return build_small(table, request.param, tmp_path_factory.mktemp(request.param))

    return method
