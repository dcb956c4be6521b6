"""Local features at 64 bytes or less a keypoint: descriptors by transform coding.

A PCA decorrelates the descriptors, and each component gets as many bits as its variance deserves (reverse
water-filling: Cover and Thomas, Elements of Information Theory, 10.3.3), in uniform steps. The PCA is fitted once: that
of vpr's SuperPoint comes with vpr, others are fitted on the first images of a map and kept with it. A keypoint is 16
bits for x and y each, as shares of the image's size, 8 bits for the score, and the bits of its descriptor.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file, save
from torch import Tensor

from vpr.core import DataError, Floats, LocalFeatures
from vpr.runtime.files import write_atomically
from vpr.runtime.threads import one_thread

logger = logging.getLogger(__name__)

Codes = NDArray[np.uint8]

CODEC = "codec.safetensors"  # in the folder of a map
FITTED_ON = 256  # images, where the codec does not come with vpr
HEAD_BYTES = 5  # x, y, score
_STEPS = 65_535.0
_MOST_BITS = 8  # a component
# Where a component is cut, in standard deviations, by its bits: the best uniform quantiser of a normal distribution
# (Max, IRE Transactions on Information Theory, 1960).
_REACH = np.array([0.0, 1.596, 1.991, 2.344, 2.680, 3.010, 3.330, 3.640, 3.950], np.float32)

_TURNED = np.packbits(np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1)[:, ::-1], axis=1)[:, 0].astype(
    np.uint16
)


@dataclass(frozen=True)
class Profile:
    """How much of an image's local features is kept."""

    keypoints: int  # the strongest, at most
    bits: int  # of a descriptor, a multiple of 8

    @property
    def bytes_per_keypoint(self) -> int:
        return HEAD_BYTES + self.bits // 8


# Chosen by measurement, see docs/map.md: at most 64 KB and 20 KB an image.
PROFILES = {"default": Profile(1024, 472), "compact": Profile(553, 256)}


@dataclass(frozen=True, eq=False)
class LocalCodec:
    """Projects descriptors of D components onto d axes, and quantises each."""

    projection: Floats  # (D, d), orthonormal columns
    means: Floats  # (d,) of the projected descriptors
    spreads: Floats  # (d,) their standard deviations
    bits: NDArray[np.uint8]  # (d,) of each component, at least 1
    profile: Profile

    def encode(self, features: LocalFeatures) -> Codes:
        """(K, bytes_per_keypoint) of the strongest keypoints, in their order."""
        kept = self._strongest(features)
        count, profile = len(kept), self.profile
        codes = np.empty((count, profile.bytes_per_keypoint), np.uint8)
        size = np.maximum(np.array(features.image_size, np.float32), 1)
        shares = (features.keypoints.numpy()[kept] + 0.5) / size
        codes[:, :4] = np.clip(np.rint(shares * _STEPS), 0, _STEPS).astype("<u2").view(np.uint8).reshape(count, 4)
        codes[:, 4] = np.clip(np.rint(features.scores.numpy()[kept] * 255), 0, 255)
        component, shift = self._layout
        bits = (self._steps(features.descriptors.numpy()[kept])[:, component] >> shift) & 1
        codes[:, HEAD_BYTES:] = np.packbits(bits.astype(bool), axis=1)
        return codes

    def decode(self, codes: Codes, image_size: tuple[int, int]) -> LocalFeatures:
        """The features of (K, bytes_per_keypoint), with unit descriptors of the original length."""
        shares = np.ascontiguousarray(codes[:, :4]).view("<u2").astype(np.float32) / np.float32(_STEPS)
        keypoints = shares * np.maximum(np.array(image_size, np.float32), 1) - np.float32(0.5)
        return LocalFeatures(
            torch.from_numpy(keypoints),
            torch.from_numpy(codes[:, 4].astype(np.float32) / 255),
            self._descriptors(codes[:, HEAD_BYTES:]),
            image_size,
        )

    def save(self, path: Path) -> None:
        arrays = {name: getattr(self, name) for name in ("projection", "means", "spreads", "bits")}
        metadata = {"vpr": json.dumps(vars(self.profile), sort_keys=True)}
        write_atomically(path, save(arrays, metadata=metadata))

    @property
    def digest(self) -> str:
        """Of all that changes the codes."""
        arrays = (self.projection, self.means, self.spreads, self.bits)
        digest = hashlib.blake2b(repr(self.profile).encode(), digest_size=16)
        for array in arrays:
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()

    @staticmethod
    def load(path: Path) -> LocalCodec:
        """Read what ``save`` wrote; raises DataError for anything else."""
        try:
            with safe_open(path, framework="np") as file:
                profile = Profile(**json.loads(file.metadata()["vpr"]))
                arrays = {name: file.get_tensor(name) for name in file.keys()}
            bits = arrays.pop("bits")
            floats = {name: array.astype(np.float32) for name, array in arrays.items()}
            return LocalCodec(**floats, bits=bits, profile=profile)
        except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
            raise DataError(f"{path}: not the codec of a map ({error}); restore it from a copy") from None

    def _strongest(self, features: LocalFeatures) -> NDArray[np.int64]:
        order = np.argsort(-features.scores.numpy(), kind="stable")
        return np.sort(order[: self.profile.keypoints])

    def _steps(self, descriptors: Floats) -> NDArray[np.int16]:
        """(K, d) the step of each component."""
        levels = 2.0**self.bits
        standard = (descriptors @ self.projection - self.means) / (_REACH[self.bits] * self.spreads)
        return np.clip(np.floor((standard + 1) * (levels / 2)), 0, levels - 1).astype(np.int16)

    @cached_property
    def _layout(self) -> tuple[NDArray[np.int64], NDArray[np.int16]]:
        """Which bit of which component each bit of a code is."""
        component = np.repeat(np.arange(len(self.bits)), self.bits)
        shift = np.concatenate([np.arange(count, dtype=np.int16) for count in self.bits])
        return component, shift

    @cached_property
    def _decoder(self) -> _Decoder:
        first = np.cumsum(self.bits, dtype=np.int64) - self.bits  # bit of a code at which each component begins
        reach = _REACH[self.bits] * self.spreads
        step = 2 * reach / 2.0**self.bits
        return _Decoder(
            byte=first // 8,
            shift=(first % 8).astype(np.uint16),
            mask=(2.0**self.bits - 1).astype(np.uint16),
            step=step.astype(np.float32),
            lowest=(self.means - reach + step / 2).astype(np.float32),
        )

    def _descriptors(self, codes: Codes) -> Tensor:
        found = torch.from_numpy(self._decoder.components(codes)).T @ torch.from_numpy(self.projection).T
        return torch.nn.functional.normalize(found, dim=1, out=found)


@dataclass(frozen=True, eq=False)
class _Decoder:
    """Where each of d components lies in a code, and what its steps mean."""

    byte: NDArray[np.int64]  # the first of the two bytes in which it is
    shift: NDArray[np.uint16]  # its lowest bit there, counted from the left
    mask: NDArray[np.uint16]
    step: Floats
    lowest: Floats  # the middle of the first step

    def components(self, codes: Codes) -> Floats:
        """(d, K) of the bits (K, bytes) of descriptors."""
        turned = np.zeros((codes.shape[1] + 1, len(codes)), np.uint16)
        np.take(_TURNED, codes.T, out=turned[:-1])
        pairs = turned[1:] << 8
        pairs |= turned[:-1]
        levels = np.take(pairs, self.byte, axis=0)
        levels >>= self.shift[:, None]
        levels &= self.mask[:, None]
        found = levels.astype(np.float32)
        found *= self.step[:, None]
        found += self.lowest[:, None]
        return found


@dataclass(frozen=True, eq=False)
class DescriptorPca:
    """All axes of a PCA of descriptors, the largest variance first."""

    projection: Floats  # (D, D)
    means: Floats  # (D,)
    spreads: Floats  # (D,)

    def codec(self, profile: Profile) -> LocalCodec:
        """The codec for a profile; descriptors for which _MOST_BITS a component are fewer bits take only those."""
        bits = share_bits(self.spreads, min(profile.bits, _MOST_BITS * len(self.spreads)))
        used = bits > 0
        kept = Profile(profile.keypoints, int(bits.sum()))
        projection = np.ascontiguousarray(self.projection[:, used])
        return LocalCodec(projection, self.means[used], self.spreads[used], bits[used], kept)


@dataclass(frozen=True)
class CodecFile:
    """The codec of a map, which is fitted on its first images where none comes with vpr."""

    folder: Path  # of the map
    profile: Profile

    @property
    def exists(self) -> bool:
        return (self.folder / CODEC).exists()

    def load(self) -> LocalCodec:
        return LocalCodec.load(self.folder / CODEC)

    def fit(self, images: Sequence[Floats]) -> LocalCodec:
        """Fit the codec on descriptors of the first images; see fit_pca_of."""
        with one_thread():
            fit_pca_of(images).codec(self.profile).save(self.folder / CODEC)
        logger.info("%s: codec of local features fitted on %d images", self.folder, len(images))
        return self.load()


def some_descriptors(features: LocalFeatures, most: int = 200) -> Floats:
    """A sample of the descriptors of an image, evenly spread over its keypoints."""
    found: Floats = features.descriptors.numpy()[:: max(1, len(features) // most)]
    return found


def fit_pca(images: Sequence[LocalFeatures]) -> DescriptorPca:
    """The PCA of descriptors of some images, evenly spread over their keypoints; see fit_pca_of."""
    return fit_pca_of([some_descriptors(each) for each in images])


def fit_pca_of(images: Sequence[Floats]) -> DescriptorPca:
    """The PCA of descriptors (K, D) of each image. Raises DataError if there are none."""
    parts = [each for each in images if len(each)]
    if not parts:
        raise DataError("no image has a single local feature: all are blank, or none could be read")
    descriptors = np.concatenate(parts).astype(np.float32)
    _, axes = np.linalg.eigh(descriptors.T.astype(np.float64) @ descriptors)
    projection = np.ascontiguousarray(axes[:, ::-1], dtype=np.float32)
    projected = descriptors @ projection
    spreads = np.maximum(projected.std(axis=0), 1e-6)
    return DescriptorPca(projection, projected.mean(axis=0), spreads.astype(np.float32))


def read_pca(path: Path) -> DescriptorPca:
    """The PCA in a safetensors file."""
    return DescriptorPca(**{name: array.astype(np.float32) for name, array in load_file(path).items()})


def share_bits(spreads: Floats, total: int) -> NDArray[np.uint8]:
    """(d,) bits for components of these standard deviations: each goes where the error is largest.

    The first bit of a component divides its squared error by 2.75, each further one by about 4.
    """
    bits = np.zeros(len(spreads), np.uint8)
    error = spreads.astype(np.float64) ** 2
    for _ in range(total):
        worst = int(np.where(bits < _MOST_BITS, error, -1.0).argmax())
        error[worst] /= 4.0 if bits[worst] else 2.75
        bits[worst] += 1
    return bits
