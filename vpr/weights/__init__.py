"""Weights: the manifest, finding files, recognising them, their recipes, and safe and strict loading."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from vpr.weights.checkpoint import WeightsError, load_strictly, read_checkpoint, sha256_of, unwrap
from vpr.weights.compatibility import require_compatible
from vpr.weights.finding import WeightsFile, find
from vpr.weights.manifest import TrainedFor
from vpr.weights.recognition import recognise
from vpr.weights.record import Record, features_of, recipe_of, record_of

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = [
    "Record",
    "TrainedFor",
    "WeightsError",
    "WeightsFile",
    "features_of",
    "find",
    "load_published",
    "load_strictly",
    "read_checkpoint",
    "recipe_of",
    "record_of",
    "require_compatible",
    "sha256_of",
    "unwrap",
]


def load_published(
    model: nn.Module, name_or_path: str, convert: Callable[[dict[str, Tensor]], dict[str, Tensor]]
) -> str:
    """Load published weights, given by name or path, whose keys ``convert`` brings to the network's own.

    Returns the file's sha256.
    """
    found = find(name_or_path)
    state = read_checkpoint(found.path)
    try:
        load_strictly(model, convert(state), str(found.path))
    except WeightsError as error:
        recognised = recognise(state)
        raise WeightsError(f"{error}; {recognised.said}" if recognised else str(error)) from None
    return found.sha256
