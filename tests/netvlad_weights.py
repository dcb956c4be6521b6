"""Random weights of NetVLAD in the published layouts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from scipy.io import savemat
from torch import Tensor

CPU = torch.device("cpu")
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


def save_struct(path: Path, tensors: dict[str, np.ndarray], average: np.ndarray) -> str:
    """A .mat file with the struct ``net`` of the published form; ``tensors`` are named layers.<i>.weights.<0 or 1>."""
    layers = np.empty(34, dtype=object)
    for i in range(34):
        pair = [tensors[f"layers.{i}.weights.{j}"] for j in (0, 1) if f"layers.{i}.weights.{j}" in tensors]
        weights = np.empty(len(pair), dtype=object)
        weights[:] = pair
        layers[i] = {"type": "conv" if pair else "relu", "weights": weights}
    normalisation = {"averageImage": np.broadcast_to(average, (224, 224, 3)).astype(np.float32)}
    savemat(path, {"net": {"layers": layers, "meta": {"normalization": normalisation}}})
    return str(path)
