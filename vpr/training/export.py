"""Trained weights as files that the package loads: safetensors in half precision, in the published names."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors.torch import save
from torch import Tensor, nn

from vpr.runtime.files import write_atomically
from vpr.weights import Record

M = TypeVar("M", bound=nn.Module)

# What SuperPoint's training reads descriptors with.
SUPERPOINT_RECORD = Record(loads=("superpoint",), recipe={"sampling": "corrected"})


def save_weights(
    path: Path,
    model: nn.Module,
    exact: Sequence[str] = (),
    record: Record | None = None,
    more: Mapping[str, Any] | None = None,
) -> None:
    """Write a model's weights, with what they need, and ``more`` beside it, as metadata; integers stay integers.

    Weights whose names begin with one of ``exact`` stay float32, unless half precision holds them without loss.
    """
    write_atomically(path, save(_state(model, exact), record.as_metadata(more) if record else None))


def as_saved(model: M, exact: Sequence[str] = ()) -> M:
    """A copy of the model with the values that ``save_weights`` would write."""
    copied = copy.deepcopy(model)
    copied.load_state_dict(_state(model, exact))
    return copied


def _state(model: nn.Module, exact: Sequence[str]) -> dict[str, Tensor]:
    return {
        key: _half(value.detach().cpu(), key.startswith(tuple(exact))).contiguous()
        for key, value in model.state_dict().items()
    }


def _half(value: Tensor, exact: bool) -> Tensor:
    if not value.is_floating_point():
        return value
    half = value.to(torch.float16)
    return value if exact and not torch.equal(half.to(value.dtype), value) else half
