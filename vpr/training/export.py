"""Trained weights as files that the package loads: safetensors in half precision, in the published names."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save
from torch import nn

from vpr.files import write_atomically


def save_weights(path: Path, model: nn.Module) -> None:
    """Write a model's weights; numbers that count something stay whole."""
    state = {
        key: value.detach().to("cpu", torch.float16 if value.is_floating_point() else value.dtype).contiguous()
        for key, value in model.state_dict().items()
    }
    write_atomically(path, save(state))
