"""Changes of view, light, season and camera on single colour images, for descriptors that are to bear them.

Images are (H, W, 3) float32 with values in [0, 1] inside of this file, uint8 outside. Every function draws from the
generator it is given. ``Overlay`` draws what stands at the same pixels whatever the camera sees: black bars, bonnets,
frames, timestamps. A batch shares one, so that what it covers tells no place from another.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from vpr.config import Section
from vpr.core import Floats, Image

Random = np.random.Generator
Array = NDArray[Any]

GREY = np.array([0.299, 0.587, 0.114], np.float32)
FOLIAGE = np.array([[0.9, 0.6, 0.3], [0.6, 0.5, 0.4], [1.0, 0.5, 0.35], [0.8, 0.75, 0.5]], np.float32)  # autumn, spring
OVERLAYS = ("bottom", "bottom", "letterbox", "sides", "bonnet", "stamp", "stamp", "frame")
SIGNS = tuple("0123456789:/-. ABCDEFGHIKLMNOPRSTUVWY")


class Settings(Section):
    """Probability of each change."""

    unchanged: float = Field(0.2, ge=0, le=1)  # share of images in which only the view changes
    night: float = Field(0.3, ge=0, le=1)  # of the others, and so are all below
    season: float = Field(0.2, ge=0, le=1)
    colour: float = Field(0.6, ge=0, le=1)
    spots: float = Field(0.3, ge=0, le=1)  # soft spots of light and shade
    shadow: float = Field(0.2, ge=0, le=1)  # with a hard edge
    gamma: float = Field(0.6, ge=0, le=1)
    contrast: float = Field(0.6, ge=0, le=1)
    haze: float = Field(0.1, ge=0, le=1)
    occlusion: float = Field(0.2, ge=0, le=1)  # rectangles of one colour or of another image
    thumbnail: float = Field(0.2, ge=0, le=1)  # 15 to 60 % of the pixels along a side
    blur: float = Field(0.15, ge=0, le=1)
    motion: float = Field(0.1, ge=0, le=1)
    noise: float = Field(0.4, ge=0, le=1)
    grey: float = Field(0.2, ge=0, le=1)
    overlay: float = Field(0.3, ge=0, le=1)  # of all images, and so is the next
    jpeg: float = Field(0.2, ge=0, le=1)


def view(image: Image, size: tuple[int, int], random: Random, *, wide: bool) -> Floats:
    """A part of the image at (width, height), turned a little and in slight perspective; more so if ``wide``."""
    width, height = size
    part = _part(image, size, random, least=0.45 if wide else 0.7)
    corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * part[2:] / 2
    corners += random.normal(0, 0.04 if wide else 0.02, (4, 2)) * part[2:]
    angle = math.radians(float(np.clip(random.normal(0, 5 if wide else 3), -15, 15)))
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    target = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float32)
    homography = cv2.getPerspectiveTransform((corners @ turn + part[:2]).astype(np.float32), target)
    border = cv2.BORDER_REFLECT_101 if random.random() < 0.7 else cv2.BORDER_CONSTANT
    return cv2.warpPerspective(image, homography, size, flags=cv2.INTER_LINEAR, borderMode=border).astype(
        np.float32
    ) / np.float32(255)


def _part(image: Image, size: tuple[int, int], random: Random, least: float) -> Array:
    """Centre x, y, width and height of a part; its aspect lies between the image's and that of ``size``."""
    height, width = image.shape[:2]
    own, wanted = math.log(width / height), math.log(size[0] / size[1])
    aspect = math.exp(own + random.uniform(0, 1) * (wanted - own))
    scale = math.sqrt(random.uniform(least, 1)) if random.random() < 0.8 else 1.0
    w, h = min(width, height * aspect) * scale, min(height, width / aspect) * scale
    return np.array([random.uniform(w / 2, width - w / 2), random.uniform(h / 2, height - h / 2), w, h])


def changed(image: Floats, settings: Settings, random: Random, other: Image | None = None) -> Floats:
    """The image in another light, season and camera; ``other`` is what may stand in front of it."""
    by_night = random.random() < settings.night
    changes: list[tuple[float, Callable[[Floats], Array]]] = [
        (0.0 if by_night else settings.season, lambda x: _season(x, random)),
        (settings.colour, lambda x: _colour(x, random)),
        (settings.spots, lambda x: x * _spots(x, random)),
        (settings.shadow, lambda x: _shadow(x, random)),
        (1.0 if by_night else 0.0, lambda x: _night(x.clip(0, 1), random)),
        (settings.gamma, lambda x: x.clip(1e-4, None) ** math.exp(random.uniform(-0.6, 0.6))),
        (settings.contrast, lambda x: _contrast(x, random)),
        (settings.haze, lambda x: _haze(x, random)),
        (settings.occlusion, lambda x: _occluded(x, random, other)),
        (1.0, lambda x: _unsharp(x, settings, random)),
        (settings.noise, lambda x: x + _noise(x, random) * random.uniform(0.005, 0.06)),
        (settings.grey, lambda x: np.repeat((x @ GREY)[..., None], 3, axis=2)),
    ]
    for chance, change in changes:
        if random.random() < chance:
            image = np.asarray(change(image), np.float32)
    return image


def to_image(image: Floats) -> Image:
    """(H, W, 3) uint8."""
    return np.ascontiguousarray((image.clip(0, 1) * 255 + 0.5).astype(np.uint8))


def compressed(image: Image, random: Random) -> Image:
    """The image after a JPEG of low quality."""
    _, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, int(random.integers(12, 60))])
    return np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), np.uint8)


class Overlay:
    """One kind of overlay, with its sizes and colour; half of them vary a little from image to image."""

    def __init__(self, random: Random) -> None:
        self.kind = str(random.choice(OVERLAYS))
        self.sizes = random.random(7)
        self.colour = (0, 0, 0) if random.random() < 0.7 else tuple(int(c) for c in random.integers(0, 256, 3))
        self.text = "".join(random.choice(SIGNS, int(random.integers(8, 24))))
        self.varies = bool(random.random() < 0.5)

    def drawn(self, image: Image, random: Random) -> Image:
        """A copy of the image with the overlay."""
        image, sizes, text = image.copy(), self.sizes, self.text
        if self.varies:
            sizes = np.clip(sizes + random.normal(0, 0.1, len(sizes)), 0, 1)
            text = "".join(random.choice(list(text), len(text)))
        height, width = image.shape[:2]
        if self.kind == "bottom":
            image[int(height * (0.92 - 0.3 * sizes[0])) :] = self.colour
        elif self.kind == "bonnet":
            centre = int(width * (0.3 + 0.4 * sizes[0])), int(height * (1.05 + 0.2 * sizes[1]))
            axes = int(width * (0.4 + 0.4 * sizes[2])), int(height * (0.25 + 0.25 * sizes[3]))
            cv2.ellipse(image, centre, axes, 0, 0, 360, self.colour, -1)
        elif self.kind == "stamp":
            _stamp(image, text, sizes)
        else:
            self._bars(image, float(sizes[0]))
        return image

    def _bars(self, image: Image, share: float) -> None:
        height, width = image.shape[:2]
        largest = {"letterbox": 0.16, "sides": 0.19, "frame": 0.1}[self.kind]
        bar = (0.02 + share * (largest - 0.02)) * (width if self.kind == "sides" else height)
        thick = max(1, int(bar))
        if self.kind != "sides":
            image[:thick] = image[height - thick :] = self.colour
        if self.kind != "letterbox":
            image[:, :thick] = image[:, width - thick :] = self.colour


def _stamp(image: Image, text: str, sizes: Array) -> None:
    """Text near the upper or the lower edge, some of it on black."""
    height, width = image.shape[:2]
    y = 0.08 + 0.06 * sizes[4] if sizes[0] < 0.5 else 0.9 + 0.07 * sizes[4]
    x, y = int(width * 0.4 * sizes[1]), int(height * y)
    scale = 0.35 + 0.6 * float(sizes[2])
    if sizes[5] < 0.4:
        (w, h), _ = cv2.getTextSize(text, 0, scale, 1)
        cv2.rectangle(image, (x - 2, y - h - 3), (x + w + 2, y + 4), (0, 0, 0), -1)
    colour = (255, 255, 255) if sizes[6] < 0.6 else (0, 220, 255)
    cv2.putText(image, text, (x, y), 0, scale, colour, 1 if scale < 0.7 else 2)


def _soft_spots(image: Floats, random: Random, count: int, low: float, high: float) -> Floats:
    """(count, 30, 40), elliptic spots with soft edges, 1 in the middle; radii are fractions of the image."""
    y, x = np.linspace(0, 1, 30)[:, None], np.linspace(0, 1, 40)
    centre, radius = random.random((count, 2, 1, 1)), random.uniform(low, high, (count, 2, 1, 1))
    exponent = ((x - centre[:, 0]) / radius[:, 0]) ** 2 + ((y - centre[:, 1]) / radius[:, 1]) ** 2
    return np.exp(-exponent).astype(np.float32)


def _enlarged(small: Array, image: Floats) -> Array:
    return np.asarray(cv2.resize(small.astype(np.float32), image.shape[1::-1]))[..., None]


def _spots(image: Floats, random: Random) -> Array:
    strength = random.uniform(-0.7, 0.7, (5, 1, 1))
    factor = 1 + (_soft_spots(image, random, 5, 0.05, 0.45) * strength).sum(0)
    return _enlarged(factor, image).clip(0.1, 2)


def _shadow(image: Floats, random: Random) -> Array:
    """Half of the image, behind a straight line, is darker."""
    height, width = image.shape[:2]
    y, x = np.mgrid[0:height, 0:width]
    normal, through = random.normal(0, 1, 2), random.random(2)
    behind = ((x / width - through[0]) * normal[0] + (y / height - through[1]) * normal[1] > 0)[..., None]
    return np.where(behind, image * random.uniform(0.3, 0.8), image)


def _night(image: Floats, random: Random) -> Array:
    """Dark but for lamps and what they light, then stretched as a camera would, with its noise."""
    lamp = np.array([1.0, random.uniform(0.6, 1.0), random.uniform(0.25, 1.0)])
    lit = _enlarged(_soft_spots(image, random, int(random.integers(1, 7)), 0.04, 0.35).max(0), image)
    tint = np.exp(random.normal(0, 0.15, 3))
    light = random.uniform(0.03, 0.4) * tint + lit * random.uniform(0.1, 1.0) * lamp
    if random.random() < 0.35:  # the sky is darker than the street
        y = np.linspace(0, 1, len(image))[:, None, None]
        light = light * (1 - random.uniform(0.5, 1.0) * (1 - y / random.uniform(0.2, 0.7)).clip(0, 1))
    if random.random() < 0.25:  # some surfaces glow, as windows do
        glowing = abs(image.mean(2, keepdims=True) - random.uniform(0.2, 0.8)) < 0.06
        light = light + glowing * random.uniform(0.1, 0.6) * lamp
    dark: Array = image ** random.uniform(1.0, 2.2) * light
    if random.random() < 0.5:
        dark = dark + _lamps(image, random) * lamp
    dark = dark + _noise(image, random) * random.uniform(0.003, 0.05)
    return dark.clip(0, None) * (random.uniform(0.25, 1.0) / max(float(np.percentile(dark, 99)), 0.05))


def _lamps(image: Floats, random: Random) -> Array:
    """(H, W, 1), lamps that the camera sees directly."""
    height, width = image.shape[:2]
    seen = np.zeros((height, width), np.float32)
    for _ in range(int(random.integers(0, 6))):
        disc, radius = np.zeros_like(seen), int(random.integers(1, 9))
        centre = int(random.integers(0, width)), int(random.integers(0, max(1, int(0.7 * height))))
        cv2.circle(disc, centre, radius, 1.0, -1)
        blurred = cv2.GaussianBlur(disc, (0, 0), radius * random.uniform(0.4, 1.5) + 0.3)
        seen += random.uniform(0.3, 1.2) * np.asarray(blurred, np.float32)
    return seen[..., None]


def _season(image: Floats, random: Random) -> Array:
    """Turns green areas brown or yellow, or puts snow on them and on the ground."""
    brightest = image.max(2, keepdims=True)
    green = (2.5 * (image[..., 1:2] - 0.5 * (image[..., :1] + image[..., 2:])) / (brightest + 0.05)).clip(0, 1)
    if random.random() < 0.5:
        share = random.uniform(0.3, 1.0) * green
        foliage = FOLIAGE[int(random.integers(len(FOLIAGE)))] * random.uniform(0.7, 1.4)
        turned: Array = image * (1 - share) + share * brightest * foliage
        return turned
    y = np.linspace(0, 1, len(image))[:, None, None]
    grey = image.mean(2)
    detail = (grey - cv2.GaussianBlur(grey, (0, 0), 6))[..., None]
    ground = ((y - random.uniform(0.3, 0.8)) * 3).clip(0, 1) * random.uniform(0, 1)
    share = 0.85 * (green * random.uniform(0, 1.5) + ground).clip(0, 1)
    snowy: Array = image * (1 - share) + share * (0.75 + 0.7 * detail).clip(0, 1)
    return snowy


def _colour(image: Floats, random: Random) -> Array:
    mixed = image @ (np.eye(3) + random.normal(0, 0.08, (3, 3)))
    grey = mixed.mean(2, keepdims=True)
    recoloured: Array = (grey + (mixed - grey) * random.uniform(0.1, 1.6)) * np.exp(random.normal(0, 0.08, 3))
    return recoloured


def _contrast(image: Floats, random: Random) -> Array:
    mean = image.mean()
    stretched: Array = (image - mean) * random.uniform(0.45, 1.5) + mean + random.uniform(-0.2, 0.2)
    return stretched


def _haze(image: Floats, random: Random) -> Array:
    share = random.uniform(0.2, 0.7)
    hazy: Array = image * (1 - share) + share * random.uniform(0.6, 1.0)
    return hazy


def _occluded(image: Floats, random: Random, other: Image | None) -> Array:
    """One to three rectangles of up to a seventh of the image, of one colour or of the other image."""
    image = image.copy()
    height, width = image.shape[:2]
    for _ in range(int(random.integers(1, 4))):
        area, aspect = random.uniform(0.02, 0.14) * height * width, math.exp(random.uniform(-1, 1))
        w, h = max(1, min(width, int(math.sqrt(area * aspect)))), max(1, min(height, int(math.sqrt(area / aspect))))
        x, y = int(random.integers(0, width - w + 1)), int(random.integers(0, height - h + 1))
        if other is not None and random.random() < 0.5:
            image[y : y + h, x : x + w] = np.asarray(cv2.resize(other, (w, h)), np.float32) / 255
        else:
            image[y : y + h, x : x + w] = random.random(3)
    return image


def _unsharp(image: Floats, settings: Settings, random: Random) -> Array:
    """A thumbnail enlarged, out of focus, moved during the exposure, or sharp."""
    height, width = image.shape[:2]
    chosen = random.random()
    if chosen < settings.thumbnail:
        scale = random.uniform(0.15, 0.6)
        size = max(16, int(width * scale)), max(12, int(height * scale))
        how = cv2.INTER_LINEAR if random.random() < 0.7 else cv2.INTER_NEAREST
        small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
        return np.asarray(cv2.resize(small, (width, height), interpolation=how))
    if chosen < settings.thumbnail + settings.blur:
        return np.asarray(cv2.GaussianBlur(image, (0, 0), random.uniform(0.4, 2.0)))
    if chosen < settings.thumbnail + settings.blur + settings.motion:
        kernel, angle, half = np.zeros((11, 11), np.float32), random.uniform(0, math.pi), random.uniform(1, 5)
        step = half * math.cos(angle), half * math.sin(angle)
        cv2.line(kernel, (int(5 - step[0]), int(5 - step[1])), (int(5 + step[0]), int(5 + step[1])), 1.0, 1)
        return np.asarray(cv2.filter2D(image, -1, kernel / kernel.sum()))
    return image


def _noise(image: Floats, random: Random) -> Array:
    """Of a sensor, in colour or alike in all channels."""
    channels = 1 if random.random() < 0.35 else 3
    return random.standard_normal((*image.shape[:2], channels), np.float32)
