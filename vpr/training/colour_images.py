"""Images as networks of colour see them, in batches on a device, decoded ahead in threads."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from vpr.core import ImageError
from vpr.global_descriptors.networks import IMAGENET, pillow_resize, to_tensor
from vpr.images import in_order, read_image


@dataclass(frozen=True)
class ColourImages:
    """Reads images, all at (width, height)."""

    size: tuple[int, int]
    device: torch.device
    batch_size: int = 20
    threads: int = 2

    def batches(self, paths: Sequence[Path]) -> Iterator[Tensor]:
        """(B, 3, H, W) normalised, in the order of the paths; raises ImageError for what cannot be read."""
        waiting: list[Tensor] = []
        with closing(in_order(lambda row: self._read(paths[row]), range(len(paths)), self.threads)) as loaded:
            for _, image in loaded:
                if isinstance(image, ImageError):
                    raise image
                waiting.append(image)
                if len(waiting) == self.batch_size:
                    yield self._stack(waiting)
                    waiting = []
        if waiting:
            yield self._stack(waiting)

    def together(self, paths: Sequence[Path]) -> Tensor:
        """All of them in one batch."""
        return torch.cat(list(self.batches(paths)))

    def describe(self, paths: Sequence[Path], describe: Callable[[Tensor], Tensor]) -> Tensor:
        """Returns the output of ``describe`` for each image, (N, D) on the CPU, without gradients."""
        with torch.inference_mode():
            return torch.cat([describe(batch).float().cpu() for batch in self.batches(paths)])

    def _read(self, path: Path) -> Tensor:
        return to_tensor(pillow_resize(read_image(path, "rgb"), self.size))

    def _stack(self, images: Sequence[Tensor]) -> Tensor:
        return IMAGENET.normalise(torch.stack(list(images)).to(self.device))
