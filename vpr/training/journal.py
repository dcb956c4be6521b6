"""Log of a training run: csv files, and TensorBoard where it is installed."""

from __future__ import annotations

import csv
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from vpr.core import Image
from vpr.runtime.files import write_atomically

KINDS = ("train", "validation", "benchmark")


class Journal:
    """Collects rows and writes them with every ``flush``; rows beyond the step it starts from are forgotten.

    ``train.csv``, ``validation.csv`` and, where benchmarks are run, ``benchmark.csv`` have the columns step, seconds
    (earlier runs included) and what was measured.
    """

    def __init__(self, folder: Path, step: int, enabled: bool = True) -> None:
        self.folder = folder
        self.enabled = enabled
        self.rows = {kind: [row for row in _read(folder / f"{kind}.csv") if int(row["step"]) <= step] for kind in KINDS}
        earlier = [float(row["seconds"]) for rows in self.rows.values() for row in rows]
        self.started = time.monotonic() - max(earlier, default=0.0)
        self.board = _board(folder, step) if enabled else None

    def add(self, kind: str, step: int, values: Mapping[str, float]) -> None:
        if not self.enabled:
            return
        seconds = round(time.monotonic() - self.started, 1)
        self.rows[kind].append({"step": step, "seconds": seconds, **values})
        for name, value in values.items():
            if self.board is not None:
                self.board.add_scalar(f"{kind}/{name}", value, step)

    def show(self, step: int, pictures: Callable[[], Mapping[str, Image]]) -> None:
        """Pictures (H, W, 3) RGB for TensorBoard; they are drawn only where it is installed."""
        if self.board is not None:
            for name, picture in pictures().items():
                self.board.add_image(name, picture, step, dataformats="HWC")

    def flush(self) -> None:
        if not self.enabled:
            return
        for kind, rows in self.rows.items():
            if kind == "benchmark" and not rows:
                continue
            write_atomically(self.folder / f"{kind}.csv", _text(rows))
        if self.board is not None:
            self.board.flush()

    def close(self) -> None:
        self.flush()
        if self.board is not None:
            self.board.close()


def _board(folder: Path, step: int) -> Any:
    """TensorBoard's writer, which hides what an interrupted run wrote beyond the step; None where it is missing."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)


def _read(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _text(rows: list[dict[str, Any]]) -> str:
    columns = list(dict.fromkeys(name for row in rows for name in row))
    lines = [",".join(columns), *(",".join(str(row.get(name, "")) for name in columns) for row in rows)]
    return "\n".join(lines) + "\n"
