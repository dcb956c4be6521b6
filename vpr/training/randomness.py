"""Random numbers that depend only on seed and step, so that an interrupted run continues as if it had not been."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch


@dataclass(frozen=True, eq=False)
class Randomness:
    """The random numbers of one step on one process."""

    numpy: np.random.Generator
    torch: torch.Generator  # on the CPU


def randomness(*numbers: int) -> Randomness:
    """Independent generators for every tuple of numbers, for instance (seed, rank, step)."""
    sequence = np.random.SeedSequence([len(numbers), *numbers])  # it pads with zeros: (1,) would be (1, 0)
    seed = int(sequence.generate_state(1, np.uint64)[0] >> np.uint64(1))
    return Randomness(np.random.default_rng(sequence), torch.Generator().manual_seed(seed))


def generator_on(device: torch.device, random: torch.Generator) -> torch.Generator:
    """A generator there, seeded by one on the CPU: a number per pixel is drawn where it is used, not copied."""
    seed = int(torch.randint(2**62, (), generator=random))
    return torch.Generator(device).manual_seed(seed)
