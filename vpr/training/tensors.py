"""Tuples of tensors, such as batches are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor


def on_tensors(value: Any, work: Callable[[Tensor], Tensor]) -> Any:
    """The same, with every tensor in it, single or in (named) tuples of any depth, replaced by what ``work`` gives."""
    if isinstance(value, Tensor):
        return work(value)
    if isinstance(value, tuple):
        changed = [on_tensors(each, work) for each in value]
        return type(value)(*changed) if hasattr(value, "_fields") else tuple(changed)
    return value
