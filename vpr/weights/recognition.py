"""Recognise a file of tensors by the table of layouts."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from vpr.weights.layouts import LAYOUTS, Layout, State

COUNTER = "num_batches_tracked"  # of BatchNorm; inference does not read it


@dataclass(frozen=True)
class Recognised:
    """A layout, with the sizes of the file."""

    layout: Layout
    variant: str  # "" if the layout has none, or the shapes do not tell
    sizes: Mapping[str, int]
    missing: frozenset[str]  # names that the layout has and the file has not
    unused: frozenset[str]  # names that the file has and the layout has not

    @property
    def kind(self) -> str:
        """The layout, and which of its networks."""
        return f"{self.layout.name} ({self.variant})" if self.variant else self.layout.name

    @property
    def said(self) -> str:
        """Returns a sentence on what the file is, and which methods load it or why none does."""
        if self.layout.loads:
            return f"the file is {self.kind}, for the method {' or '.join(self.layout.loads)}"
        return f"the file is {self.kind}: no method of vpr takes such weights"


def recognise(state: State, layouts: Sequence[Layout] = LAYOUTS) -> Recognised | None:
    """The first layout whose signature keys are all there; None if there is no such layout."""
    for layout in layouts:
        if all(name in state for name in layout.signature_keys) and (not layout.condition or layout.condition(state)):
            sizes = {size: measure(state) for size, measure in layout.sizes.items()}
            found = {name for name in state if not name.endswith(COUNTER)}
            wanted = _expand_all(layout.keys, sizes) if layout.keys else found
            known = wanted | _expand_all(layout.optional, sizes)
            variant = layout.variant(state) if layout.variant else ""
            return Recognised(layout, variant, sizes, frozenset(wanted - found), frozenset(found - known))
    return None


def expand(pattern: str, sizes: Mapping[str, int]) -> list[str]:
    """The names a pattern stands for; see ``vpr.weights.layouts`` for how it is written."""
    group = re.search(r"\{([^{}]*)\}", pattern)
    if group is None:
        return [pattern]
    before, after = pattern[: group.start()], pattern[group.end() :]
    return [name for word in _words(group[1], sizes) for name in expand(f"{before}{word}{after}", sizes)]


def _words(group: str, sizes: Mapping[str, int]) -> Sequence[object]:
    span = re.fullmatch(r"(\d+)\.\.(?:(\d+)|<([^/]+)(?:/(\d+))?)", group)
    if span is None:
        return group.split(",")
    first, last, size, step = span.groups()
    return range(int(first), sizes[size] if size else int(last) + 1, int(step or 1))


def _expand_all(patterns: Sequence[str], sizes: Mapping[str, int]) -> set[str]:
    return {name for pattern in patterns for name in expand(pattern, sizes)}
