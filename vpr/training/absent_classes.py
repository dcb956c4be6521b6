"""Photographs without labels in which some classes are known not to occur: no vehicle stands indoors."""

from __future__ import annotations

from fnmatch import fnmatch
from pathlib import Path

import torch
from pydantic import Field
from torch import Tensor

from vpr.categories import Categories
from vpr.config import Section
from vpr.core import ConfigError, DataError
from vpr.datasets.folders import list_images
from vpr.training.grey_images import GreyImages
from vpr.training.randomness import Randomness


class AbsentSettings(Section):
    """Photographs without labels in which some classes do not occur: a head must not find them there."""

    folder: Path
    patterns: tuple[str, ...] = ("*",)  # of the names of the photographs
    classes: tuple[str, ...] = Field(min_length=1)
    share: float = Field(0.25, gt=0)  # such photographs for each labelled image of a batch


class WithoutClasses:
    """See AbsentSettings."""

    def __init__(self, settings: AbsentSettings, categories: Categories, size: tuple[int, int]) -> None:
        names = [name for name in list_images(settings.folder) if any(fnmatch(name, p) for p in settings.patterns)]
        if not names:
            raise DataError(f"{settings.folder}: no photograph's name matches {', '.join(settings.patterns)}")
        self.absent = torch.zeros(len(categories), dtype=torch.bool)
        self.absent[list(categories.ids_of(settings.classes))] = True
        if self.absent.all():
            raise ConfigError(f"task.absent: photographs of {settings.folder} have to be of some class; name fewer")
        self.images = GreyImages(settings.folder, size, names=names)
        self.share = settings.share

    def draw(self, size: int, random: Randomness) -> tuple[Tensor, Tensor]:
        """Photographs (U, 1, H, W) for a batch of ``size`` labelled images, and (U, C) which classes they lack."""
        count = max(1, round(self.share * size))
        rows = random.numpy.integers(len(self.images), size=count)
        return self.images.stack(rows), self.absent.expand(count, -1)


def absent_loss(logits: Tensor, absent: Tensor) -> Tensor:
    """Mean -log of the probability that a pixel is of none of the absent classes (B, C), of logits (B, C, h, w)."""
    allowed = logits.float().masked_fill(absent[..., None, None], -torch.inf)
    return (logits.float().logsumexp(1) - allowed.logsumexp(1)).mean()
