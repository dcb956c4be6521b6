"""Random weights of NetVLAD in the published layouts, and the golden files' recipe."""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor

# Weights of full size are half a gigabyte, which a test makes, writes, reads and hashes.
full_size = pytest.mark.skipif(os.environ.get("VPR_GOLDEN") != "all", reason="takes a minute; set VPR_GOLDEN=all")
CPU = torch.device("cpu")
SEED = 1  # of the golden files
WIDTHS = {0: (3, 64), 2: (64, 64), 5: (64, 128), 7: (128, 128), 10: (128, 256), 12: (256, 256), 14: (256, 256)}
WIDTHS |= {17: (256, 512), 19: (512, 512), 21: (512, 512), 24: (512, 512), 26: (512, 512), 28: (512, 512)}


def random_state(clusters: int, dim: int | None, seed: int = 0) -> dict[str, Tensor]:
    """Patch-NetVLAD's keys; VGG16 is always as wide as published."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int, scale: float) -> Tensor:
        return scale * torch.randn(shape, generator=generator)

    state = {
        "pool.conv.weight": normal(clusters, 512, 1, 1, scale=3.0),
        "pool.centroids": normal(clusters, 512, scale=0.05),
    }
    for place, (before, after) in WIDTHS.items():
        state[f"encoder.{place}.weight"] = normal(after, before, 3, 3, scale=1.5 / (9 * before) ** 0.5)
        state[f"encoder.{place}.bias"] = normal(after, scale=0.1)
    if dim is not None:
        state["WPCA.0.weight"] = normal(dim, clusters * 512, 1, 1, scale=0.2)
        state["WPCA.0.bias"] = normal(dim, scale=0.05)
    return state


def saved(state: dict[str, Tensor], path: Path) -> str:
    """As Patch-NetVLAD saves it, with the numbers of training beside the weights."""
    torch.save({"state_dict": state, "epoch": 3, "num_pcs": 6}, path)
    return str(path)


def golden(name: str, shared: Path) -> SimpleNamespace:
    """What the json says, the recorded arrays, and the module that makes weights and pictures."""
    folder = shared / "golden"
    facts = json.loads((folder / f"{name}.json").read_text())
    return SimpleNamespace(
        facts=facts, arrays=np.load(folder / f"{name}_seed1.npz"), recipe=_module(folder / "recipe.py")
    )


def made(recipe: ModuleType, shapes: Mapping[str, list[int]], rules: list) -> dict[str, Tensor]:
    return {key: torch.from_numpy(np.asarray(array)) for key, array in recipe.state_dict(shapes, rules, SEED).items()}


def compare(recorded: SimpleNamespace, name: str, ours: Tensor, tolerance: float) -> None:
    """With a recorded array, of which the file may hold only some elements."""
    arrays, got = recorded.arrays, ours.numpy()
    if f"{name}_index" in arrays:
        assert tuple(arrays[f"{name}_shape"]) == got.shape
        got = np.ascontiguousarray(got).reshape(-1)[arrays[f"{name}_index"]]
    np.testing.assert_allclose(got, arrays[name], rtol=0, atol=tolerance, err_msg=name)


def _module(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
