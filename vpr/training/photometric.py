"""Changes of light and of the camera, on batches of grey images (B, 1, H, W) with values in [0, 1], on any device.

Each image draws its own; the kinds are those used for SuperPoint (contrast, brightness, noise, blur, motion, shade),
and night: little light, a few lamps, and the noise of a sensor that amplifies.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from vpr.config import Section
from vpr.training.randomness import generator_on


class Settings(Section):
    """Probability and strength of each change."""

    brightness: float = Field(0.2, ge=0)  # added, at most
    contrast: float = Field(0.5, ge=0, lt=1)  # contrast between 1 - this and 1 + this
    gamma: float = Field(0.5, ge=0)  # exponent between exp(-this) and exp(this)
    noise: float = Field(0.04, ge=0)  # largest standard deviation
    speckle: float = Field(0.0035, ge=0, le=1)  # largest share of pixels that are black or white
    blur: float = Field(1.5, ge=0)  # largest standard deviation in pixels
    motion: int = Field(7, ge=1)  # longest path in pixels
    shade: float = Field(0.6, ge=0, le=1)  # darkest or brightest of a soft spot
    night: float = Field(0.15, ge=0, le=1)  # share of images that become night
    chance: float = Field(0.5, ge=0, le=1)  # of each of the other changes


def augment(images: Tensor, settings: Settings, random: torch.Generator) -> Tensor:
    """A changed copy of the images; the generator is on the CPU."""
    changes: list[tuple[Callable[[Tensor, Settings, torch.Generator], Tensor], float]] = [
        (_night, settings.night),
        (_shade, settings.chance),
        (_gamma, settings.chance),
        (_contrast, settings.chance),
        (_blur, settings.chance),
        (_motion, settings.chance),
        (_noise, settings.chance),
        (_speckle, settings.chance),
    ]
    for change, chance in changes:
        chosen = torch.rand(len(images), generator=random) < chance
        if chosen.any():
            rows = chosen.nonzero()[:, 0].to(images.device)
            images = images.index_copy(0, rows, change(images[rows], settings, random).clamp(0, 1))
    return images


def _draw(images: Tensor, low: float, high: float, random: torch.Generator) -> Tensor:
    """One number per image, (B, 1, 1, 1), uniform."""
    return (low + (high - low) * torch.rand(len(images), 1, 1, 1, generator=random)).to(images.device)


def _contrast(images: Tensor, settings: Settings, random: torch.Generator) -> Tensor:
    mean = images.mean((1, 2, 3), keepdim=True)
    factor = _draw(images, 1 - settings.contrast, 1 + settings.contrast, random)
    return (images - mean) * factor + mean + _draw(images, -settings.brightness, settings.brightness, random)


def _gamma(images: Tensor, settings: Settings, random: torch.Generator) -> Tensor:
    return images.clamp_min(1e-4) ** _draw(images, -settings.gamma, settings.gamma, random).exp()


def _noise(images: Tensor, settings: Settings, random: torch.Generator) -> Tensor:
    noise = torch.randn(images.shape, generator=generator_on(images.device, random), device=images.device)
    return images + noise * _draw(images, 0, settings.noise, random)


def _speckle(images: Tensor, settings: Settings, random: torch.Generator) -> Tensor:
    drawn = torch.rand(images.shape, generator=generator_on(images.device, random), device=images.device)
    share = _draw(images, 0, settings.speckle, random)
    return torch.where(drawn < share / 2, 0.0, torch.where(drawn > 1 - share / 2, 1.0, images))


def _blur(images: Tensor, settings: Settings, random: torch.Generator) -> Tensor:
    sigma = _draw(images, 0.1, max(settings.blur, 0.11), random)[:, 0]  # (B, 1, 1)
    offsets = torch.arange(-4.0, 5.0, device=images.device)
    kernel = torch.exp(-0.5 * (offsets / sigma) ** 2)
    kernel = kernel / kernel.sum(-1, keepdim=True)
    return _filter(_filter(images, kernel), kernel.transpose(1, 2))


def _motion(images: Tensor, settings: Settings, random: torch.Generator) -> Tensor:
    """A straight path of random direction and length."""
    half = max(1, settings.motion // 2)
    angle, length = _draw(images, 0, math.pi, random)[:, 0], _draw(images, 0.5, half + 0.5, random)[:, 0]
    steps = torch.arange(-half, half + 1.0, device=images.device)
    y, x = torch.meshgrid(steps, steps, indexing="ij")
    along = x * angle.cos() + y * angle.sin()
    across = (-x * angle.sin() + y * angle.cos()).abs()
    kernel = (1 - across).clamp_min(0) * (along.abs() <= length)
    return _filter(images, kernel / kernel.sum((1, 2), keepdim=True))


def _filter(images: Tensor, kernel: Tensor) -> Tensor:
    """Each image (B, 1, H, W) with its own kernel (B, h, w); edges are repeated."""
    height, width = kernel.shape[1:]
    around = (width // 2, width // 2, height // 2, height // 2)
    padded = functional.pad(images, around, mode="replicate")
    return functional.conv2d(padded.transpose(0, 1), kernel[:, None], groups=len(images)).transpose(0, 1)


def _spots(images: Tensor, count: int, low: float, high: float, random: torch.Generator) -> Tensor:
    """Soft elliptic spots, (B, count, H, W), 1 in the middle; their radii are fractions of the longer side."""
    batch, _, height, width = images.shape
    drawn = torch.rand(batch, count, 4, generator=random).to(images.device)[..., None, None]
    y = torch.linspace(0, 1, height, device=images.device)[:, None]
    x = torch.linspace(0, 1, width, device=images.device)[None, :]
    radii = low + (high - low) * drawn[:, :, 2:]
    return torch.exp(-(((x - drawn[:, :, 0]) / radii[:, :, 0]) ** 2) - ((y - drawn[:, :, 1]) / radii[:, :, 1]) ** 2)


def _shade(images: Tensor, settings: Settings, random: torch.Generator) -> Tensor:
    """Dark and bright spots with soft edges."""
    spots = _spots(images, 6, 0.05, 0.4, random)
    strength = (2 * torch.rand(len(images), 6, 1, 1, generator=random) - 1).to(images.device) * settings.shade
    return images * (1 + (spots * strength).sum(1, keepdim=True)).clamp(0.1, 2)


def _night(images: Tensor, settings: Settings, random: torch.Generator) -> Tensor:
    """Dark but for the surroundings of a few lamps, then stretched as a camera would, with its noise."""
    lamps = _spots(images, 4, 0.05, 0.35, random).amax(1, keepdim=True)
    light = _draw(images, 0.05, 0.4, random) + lamps * _draw(images, 0.2, 1.0, random)
    dark = images ** _draw(images, 1.0, 2.2, random) * light
    noise = torch.randn(images.shape, generator=generator_on(images.device, random), device=images.device)
    noise = noise * _draw(images, 0.005, 0.05, random)
    stretch = _draw(images, 0.4, 1.0, random) / dark.amax((1, 2, 3), keepdim=True).clamp_min(0.05)
    return (dark + noise) * stretch
