"""Sun, sky, street lamps and the camera's exposure, as presets with a random sun."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from vpr.core import ConfigError, Doubles


@dataclass(frozen=True, eq=False)
class Light:
    """What shines on the city; colours are linear RGB of no particular unit, for the exposure is set by ``level``."""

    name: str
    sun: Doubles  # (3,) unit direction towards the sun
    sun_colour: Doubles  # (3,) on a surface that faces the sun; zeros where it does not come through
    sky_colour: Doubles  # (3,) on a surface that faces up
    ground_colour: Doubles  # (3,) on a surface that faces down
    zenith: Doubles  # (3,) of the sky overhead
    horizon: Doubles  # (3,) of the sky low down, and of the haze
    clouds: float  # fraction of the sky
    haze_per_m: float
    lamps: float  # brightness of the street lamps
    windows: float  # brightness of what glows: windows, shop signs, lanterns
    level: float  # mean brightness of the image, of 1
    noise: float  # standard deviation of the noise in a middle grey, of 255


def _sun(rng: np.random.Generator, low_deg: float, high_deg: float) -> Doubles:
    azimuth, elevation = rng.uniform(0, 2 * np.pi), np.deg2rad(rng.uniform(low_deg, high_deg))
    return np.array([np.sin(azimuth) * np.cos(elevation), np.cos(azimuth) * np.cos(elevation), np.sin(elevation)])


def _day(rng: np.random.Generator) -> Light:
    return Light(
        name="day",
        sun=_sun(rng, 28, 62),
        sun_colour=np.array([1.7, 1.56, 1.32]) * rng.uniform(0.75, 1.1),
        sky_colour=np.array([0.42, 0.47, 0.56]),
        ground_colour=np.array([0.3, 0.29, 0.27]),
        zenith=np.array([0.16, 0.32, 0.68]),
        horizon=np.array([0.62, 0.74, 0.88]),
        clouds=rng.uniform(0.1, 0.6),
        haze_per_m=0.0016,
        lamps=0.0,
        windows=0.0,
        level=rng.uniform(0.27, 0.36),
        noise=1.3,
    )


def _overcast(rng: np.random.Generator) -> Light:
    return replace(
        _day(rng),
        name="overcast",
        sun_colour=np.zeros(3),
        sky_colour=np.array([0.72, 0.75, 0.8]),
        ground_colour=np.array([0.3, 0.3, 0.3]),
        zenith=np.array([0.62, 0.66, 0.72]),
        horizon=np.array([0.8, 0.83, 0.86]),
        clouds=1.0,
        haze_per_m=rng.uniform(0.002, 0.005),
        level=rng.uniform(0.24, 0.33),
        noise=1.6,
    )


def _dusk(rng: np.random.Generator) -> Light:
    return Light(
        name="dusk",
        sun=_sun(rng, 4, 11),
        sun_colour=np.array([0.85, 0.42, 0.2]) * rng.uniform(0.5, 1.0),
        sky_colour=np.array([0.26, 0.25, 0.36]),
        ground_colour=np.array([0.13, 0.11, 0.12]),
        zenith=np.array([0.12, 0.16, 0.38]),
        horizon=np.array([0.85, 0.48, 0.32]),
        clouds=rng.uniform(0.2, 0.7),
        haze_per_m=0.003,
        lamps=0.5,
        windows=0.35,
        level=rng.uniform(0.14, 0.2),
        noise=3.0,
    )


def _night(rng: np.random.Generator) -> Light:
    return Light(
        name="night",
        sun=_sun(rng, 30, 60),
        sun_colour=np.zeros(3),
        sky_colour=np.array([0.011, 0.013, 0.022]),
        ground_colour=np.array([0.008, 0.008, 0.01]),
        zenith=np.array([0.006, 0.008, 0.018]),
        horizon=np.array([0.035, 0.028, 0.03]),
        clouds=rng.uniform(0.0, 0.8),
        haze_per_m=0.002,
        lamps=1.0,
        windows=0.5,
        level=rng.uniform(0.045, 0.07),
        noise=rng.uniform(4, 8),
    )


LIGHTS: dict[str, Callable[[np.random.Generator], Light]] = {
    "day": _day,
    "dusk": _dusk,
    "overcast": _overcast,
    "night": _night,
}


def light_named(name: str, seed: int) -> Light:
    """A preset with the sun, the clouds and the exposure of that seed. Raises ConfigError for an unknown name."""
    if name not in LIGHTS:
        raise ConfigError(f"unknown light {name!r}; known: {', '.join(LIGHTS)}")
    return LIGHTS[name](np.random.default_rng([seed, 5]))
