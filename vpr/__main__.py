"""The command ``vpr``: begins to load torch, if the command computes, before anything else is imported."""

from __future__ import annotations

import gc
import sys

COMPUTING: set[tuple[str, ...]] = {("run",), ("rank",), ("serve",), ("evaluate",), ("match-two",), ("match-pairs",)}
COMPUTING |= {("map", command) for command in ("create", "add", "locate")}


def computes(arguments: list[str]) -> bool:
    """Whether a command line names a command that computes, and does not ask for help."""
    named = tuple(arguments[:1]) in COMPUTING or tuple(arguments[:2]) in COMPUTING
    return named and "--help" not in arguments


def main() -> None:
    if computes(sys.argv[1:]):
        # Imports make hundreds of thousands of objects and hardly any garbage: by default it would be sought all along.
        gc.set_threshold(50_000, 20, 100)
        from vpr.runtime.preload import preload_torch

        preload_torch()
    from vpr.cli import main as command

    command()


if __name__ == "__main__":
    main()
