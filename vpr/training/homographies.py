"""Random homographies, and the images and points they move, all batched on one device.

The kinds of change and their ranges are those of DeTone et al., CVPR workshops 2018: a patch of the image is turned,
scaled, shifted and seen in perspective. A homography maps pixels of the original to pixels of the warped image.
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from vpr.config import Section


class Settings(Section):
    """Limits of a random homography."""

    patch: float = Field(0.85, gt=0, le=1)  # side of the part of the image that is seen, without scaling
    perspective: float = Field(0.2, ge=0, lt=0.5)  # shift of corners as a fraction of the image
    scaling: float = Field(0.2, ge=0, lt=1)  # the part is larger or smaller by up to this
    rotation_deg: float = Field(90.0, ge=0, le=180)
    translation: float = Field(1.0, ge=0)  # fraction of the room that is left beside the part
    beyond: float = Field(0.05, ge=0)  # how far the part may leave the image, as a fraction of it


def sample_homographies(count: int, size: tuple[int, int], settings: Settings, random: torch.Generator) -> Tensor:
    """(count, 3, 3) float32 for images of (width, height); the generator is on the CPU, and so is the result."""
    uniform = torch.rand(count, 12, generator=random)
    signed = 2 * uniform - 1
    unit = torch.tensor([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
    corners = (unit - 0.5) * settings.patch  # of the part of the image that is seen, around its centre
    corners = corners.repeat(count, 1, 1)
    corners = corners + settings.perspective / 2 * _truncated_normal((count, 4, 2), random)
    corners = corners * (1 + settings.scaling * signed[:, 0])[:, None, None]
    aspect = torch.tensor([size[0] / size[1], 1.0])
    angle = torch.deg2rad(settings.rotation_deg * signed[:, 1])
    turn = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], dim=1).view(count, 2, 2)
    corners = (corners * aspect) @ turn / aspect
    extent = corners.abs().amax(1)
    room = (0.5 + settings.beyond - extent).clamp_min(0)
    corners = corners + settings.translation * (room * signed[:, 2:4])[:, None, :] + 0.5
    scale = torch.tensor([size[0] - 1.0, size[1] - 1.0])
    return homography_of(corners * scale, (unit * scale).repeat(count, 1, 1))


def homography_of(first: Tensor, second: Tensor) -> Tensor:
    """The (B, 3, 3) that send four points each, (B, 4, 2), to four others; bottom right entry 1."""
    x, y = first.double().unbind(-1)
    u, v = second.double().unbind(-1)
    one, zero = torch.ones_like(x), torch.zeros_like(x)
    along_x = torch.stack([x, y, one, zero, zero, zero, -u * x, -u * y], dim=-1)
    along_y = torch.stack([zero, zero, zero, x, y, one, -v * x, -v * y], dim=-1)
    solved = torch.linalg.solve(torch.cat([along_x, along_y], dim=1), torch.cat([u, v], dim=1))
    return torch.cat([solved, torch.ones_like(solved[:, :1])], dim=1).view(-1, 3, 3).float()


def warp_points(points: Tensor, homography: Tensor) -> Tensor:
    """Points (B, N, 2) moved by (B, 3, 3)."""
    moved = functional.pad(points, (0, 1), value=1.0) @ homography.transpose(1, 2)
    return moved[..., :2] / moved[..., 2:].clamp(min=1e-6)


def warp_images(images: Tensor, homography: Tensor, size: tuple[int, int]) -> Tensor:
    """Images (B, C, H, W) as they look after (B, 3, 3), at (width, height); black where nothing is known."""
    source = warp_points(pixel_grid(size, images.device).expand(len(images), -1, -1), invert(homography))
    height, width = images.shape[2:]
    normalised = 2 * source / torch.tensor([width - 1.0, height - 1.0], device=images.device) - 1
    grid = normalised.view(len(images), size[1], size[0], 2).to(images.dtype)
    return functional.grid_sample(images, grid, align_corners=True)


def warp_labels(labels: Tensor, homography: Tensor, size: tuple[int, int], outside: int) -> Tensor:
    """Masks (B, H, W) uint8 after (B, 3, 3), at (width, height), by the nearest pixel; ``outside`` beyond the mask."""
    height, width = labels.shape[1:]
    source = warp_points(pixel_grid(size, labels.device).expand(len(labels), -1, -1), invert(homography))
    known = inside(source, (width, height))
    x, y = source.round().long().unbind(-1)
    places = y.clamp(0, height - 1) * width + x.clamp(0, width - 1)
    found = labels.flatten(1).gather(1, places).masked_fill(~known, outside)
    return found.view(len(labels), size[1], size[0])


def seen(homography: Tensor, source: tuple[int, int], target: tuple[int, int], margin: int = 0) -> Tensor:
    """Which pixels of the warped image, (B, height, width), lie at least ``margin`` pixels inside of the original."""
    points = warp_points(pixel_grid(target, homography.device).expand(len(homography), -1, -1), invert(homography))
    return inside(points, source, margin).view(-1, target[1], target[0])


def inside(points: Tensor, size: tuple[int, int], margin: float = 0) -> Tensor:
    """Which points (..., 2) lie at least ``margin`` pixels inside of an image of (width, height)."""
    far = torch.tensor([size[0] - 1.0, size[1] - 1.0], device=points.device) - margin
    return ((points >= margin) & (points <= far)).all(-1)


def invert(homography: Tensor) -> Tensor:
    inverse: Tensor = torch.linalg.inv(homography.double()).float()
    return inverse / inverse[:, 2:, 2:]


def pixel_grid(size: tuple[int, int], device: torch.device) -> Tensor:
    """(1, height * width, 2) x, y of all pixels, row by row."""
    x = torch.arange(size[0], device=device, dtype=torch.float32)
    y = torch.arange(size[1], device=device, dtype=torch.float32)
    return torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1).view(1, -1, 2)


def _truncated_normal(shape: tuple[int, ...], random: torch.Generator) -> Tensor:
    return torch.randn(shape, generator=random).clamp(-2, 2)
