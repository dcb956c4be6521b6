"""The mean of several weights of one training, as checkpoint averaging has it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from vpr.weights.checkpoint import WeightsError, read_checkpoint
from vpr.weights.record import record_of


def average_weights(paths: Sequence[Path]) -> dict[str, Tensor]:
    """The mean of each tensor, in float32; integers are those of the last file.

    Raises WeightsError for fewer than two files, and for those that differ in their tensors or in what they say they
    load into or were trained for.
    """
    if len(paths) < 2:
        raise WeightsError("a mean needs two weights or more")
    first, *others = paths
    state = read_checkpoint(first)
    about = _about(first)
    mean = {key: value.double() if value.is_floating_point() else value for key, value in state.items()}
    for path in others:
        other = read_checkpoint(path)
        differs = {key for key in {*state, *other} if _shape(state, key) != _shape(other, key)}
        if differs:
            raise WeightsError(f"{path}: {min(differs)} differs in shape from {first}, or is in one of them only")
        if _about(path) != about:
            raise WeightsError(f"{path}: is of another method or for other local features than {first}")
        mean = {key: each + other[key] if each.is_floating_point() else other[key] for key, each in mean.items()}
    count = len(paths)
    return {key: (each / count).float() if each.is_floating_point() else each for key, each in mean.items()}


def _shape(state: dict[str, Tensor], key: str) -> tuple[int, ...] | None:
    return tuple(state[key].shape) if key in state else None


def _about(path: Path) -> object:
    record = record_of(str(path))
    return None if record is None else (record.loads, record.trained_for)
