"""The nouns that pass between the stages, the verbs that a method implements, and the errors that a user meets.

Pixels: x to the right, y down, the centre of the top-left pixel is (0, 0).
Positions: metres in one UTM zone, float64, east then north.
Scores: higher is better everywhere; ties keep the order they came in.
"""

from __future__ import annotations

import posixpath
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:  # importing torch takes a second that `vpr --help` need not wait for
    from torch import Tensor

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Rows = NDArray[np.int64]
Image = NDArray[np.uint8]
Channels = Literal["grey", "rgb"]

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
FARTHEST_M = 1e10  # no position is as far from its origin; thousands of regions laid out side by side are not
NO_ROW = -1  # pads a ranking that has fewer candidates than columns


class VprError(Exception):
    """Base of every error whose message is meant for the user: it says what was wrong and what to do."""


class ConfigError(VprError):
    """A setting that does not exist, or has a value that makes no sense."""


class DataError(VprError):
    """A file, list or position that does not say what its format promises."""


class SearchError(VprError):
    """An engine on another machine that does not search: unreachable, or it holds something else than expected."""


class ImageError(DataError):
    """One image that cannot be used; the message names the file and the reason."""


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Images in a fixed order: row i of every array, ranking and feature store is image i.

    Raises DataError for repeated or unusable names, positions that are not finite, and lengths that differ.
    """

    root: Path
    names: tuple[str, ...]  # N POSIX paths relative to root, as their list writes them
    positions: Doubles | None = None  # (N, 2) metres, UTM east and north
    zone: str | None = None  # UTM zone of the positions, for instance "54N"; None if unknown
    groups: Rows | None = None  # (N,) images of one panorama share a number
    regions: Rows | None = None  # (N,) a query is compared with database images of its own region; None: with all

    def __post_init__(self) -> None:
        seen: dict[str, str] = {}
        for name in self.names:
            key = usable_name(name)
            if key in seen:
                raise DataError(f"{self.root}: image {name!r} is listed twice; list every image once")
            seen[key] = name
        if self.positions is not None:
            if self.positions.shape != (len(self.names), 2):
                raise DataError(
                    f"{self.root}: {len(self.names)} images but positions of shape {self.positions.shape}; "
                    "give one east, north pair per image"
                )
            bad = np.flatnonzero(~(np.abs(self.positions) < FARTHEST_M).all(axis=1))
            if len(bad):
                raise DataError(
                    f"{self.root}: the position of {self.names[bad[0]]!r} is not a finite number of metres on Earth "
                    f"({len(bad)} such images); correct it or leave the image out"
                )
        for numbers, what in ((self.groups, "group"), (self.regions, "region")):
            if numbers is not None and numbers.shape != (len(self.names),):
                raise DataError(f"{self.root}: {len(self.names)} images but {len(numbers)} {what} numbers")

    def __len__(self) -> int:
        return len(self.names)

    def part(self, rows: Sequence[int] | Rows) -> ImageSet:
        """The images of these rows, in their order."""
        kept = np.asarray(rows, dtype=np.int64)
        positions = None if self.positions is None else self.positions[kept]
        groups, regions = (None if each is None else each[kept] for each in (self.groups, self.regions))
        return ImageSet(self.root, tuple(self.names[row] for row in kept), positions, self.zone, groups, regions)

    def path(self, row: int) -> Path:
        """Where an image lies; names with accents are found in either Unicode normal form."""
        name = self.names[row]
        path = self.root / name
        if not name.isascii() and not path.exists():
            others = (self.root / unicodedata.normalize(form, name) for form in ("NFC", "NFD"))
            return next((other for other in others if other.exists()), path)
        return path


def usable_name(name: str) -> str:
    """The normalised form under which an image is stored: ``./a//b.jpg`` and ``a/b.jpg`` are one image.

    Raises DataError for names that no file between the stages could hold: empty ones, absolute ones,
    ones that leave their folder, control characters (a newline), and bytes that are not UTF-8.
    """
    if not name or name.endswith("/"):
        raise DataError(f"image name {name!r} is empty; remove the blank entry")
    if _CONTROL.search(name):
        raise DataError(f"image name {name!r} holds a control character such as a newline; rename the file")
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        raise DataError(f"image name {name!r} is not valid UTF-8; rename the file") from None
    key = posixpath.normpath(name)
    if key.startswith(("/", "../")) or key in (".", ".."):
        raise DataError(f"image name {name!r} is not inside its folder; give paths relative to the data set's root")
    return key


@dataclass(frozen=True, eq=False)
class Dataset:
    """A database to search, queries to place, and, where known, which database rows are right for each query."""

    name: str
    protocol: str  # what makes a candidate right, for instance "within 25 m"; printed beside every recall
    database: ImageSet
    queries: ImageSet
    positives: tuple[Rows, ...] | None = None  # per query the right database rows, ascending; None if unknown
    unknown: tuple[int, ...] = ()  # rows of the queries whose positives are not known; they count in no recall

    def __post_init__(self) -> None:
        if (self.database.regions is None) != (self.queries.regions is None):
            raise DataError(f"{self.name}: give the regions of both database and queries, or of neither")
        if any(not 0 <= row < len(self.queries) for row in self.unknown):
            raise DataError(f"{self.name}: {len(self.queries)} queries, but one of unknown positives beyond them")
        if self.positives is None:
            return
        if len(self.positives) != len(self.queries):
            raise DataError(
                f"{self.name}: ground truth for {len(self.positives)} queries, but {len(self.queries)} queries"
            )
        for query, rows in zip(self.queries.names, self.positives, strict=True):
            if len(rows) and (rows.min() < 0 or rows.max() >= len(self.database)):
                raise DataError(
                    f"{self.name}: ground truth of {query!r} names row {int(rows.max())}, "
                    f"but the database has {len(self.database)} images"
                )


@dataclass(frozen=True, eq=False)
class LocalFeatures:
    """Keypoints of one image with their descriptors."""

    keypoints: Tensor  # (N, 2) float32 x, y in pixels of the image the method saw
    scores: Tensor  # (N,) float32 detection confidence in [0, 1]
    descriptors: Tensor  # (N, D) float32 unit rows
    image_size: tuple[int, int]  # width, height of the image the method saw
    scales: Tensor | None = None  # (N,) float32 size of each keypoint in pixels, where the method has one
    orientations: Tensor | None = None  # (N,) float32 radians, x towards y, where the method has one

    def __post_init__(self) -> None:
        count = len(self.keypoints)
        if self.keypoints.shape != (count, 2) or self.scores.shape != (count,) or len(self.descriptors) != count:
            raise ValueError(
                f"keypoints {tuple(self.keypoints.shape)}, scores {tuple(self.scores.shape)} and descriptors "
                f"{tuple(self.descriptors.shape)} do not describe the same keypoints"
            )

        for name in ("scales", "orientations"):
            values = getattr(self, name)
            if values is not None and values.shape != (count,):
                raise ValueError(f"{name} {tuple(values.shape)} do not belong to {count} keypoints")

    def __len__(self) -> int:
        return len(self.keypoints)

    def part(self, rows: Tensor) -> LocalFeatures:
        """The keypoints of these rows, given by number or by a flag for each keypoint."""
        scales, orientations = (None if each is None else each[rows] for each in (self.scales, self.orientations))
        return LocalFeatures(
            self.keypoints[rows], self.scores[rows], self.descriptors[rows], self.image_size, scales, orientations
        )

    @staticmethod
    def empty(dim: int, image_size: tuple[int, int] = (0, 0)) -> LocalFeatures:
        import torch

        return LocalFeatures(torch.zeros(0, 2), torch.zeros(0), torch.zeros(0, dim), image_size)


@dataclass(frozen=True, eq=False)
class Matches:
    """Correspondences between a query and one candidate."""

    pairs: Tensor  # (M, 2) int64 point of the query, point of the candidate
    scores: Tensor  # (M,) float32 confidence in [0, 1]

    def __len__(self) -> int:
        return len(self.pairs)

    @staticmethod
    def empty() -> Matches:
        import torch

        return Matches(torch.zeros(0, 2, dtype=torch.int64), torch.zeros(0))


@dataclass(frozen=True, eq=False)
class ImageMatches:
    """Correspondences between two images, with keypoints of their own."""

    keypoints0: Tensor  # (M, 2) float32 x, y in pixels of the first image as the method saw it
    keypoints1: Tensor  # (M, 2) of the second
    scores: Tensor  # (M,) float32 confidence in [0, 1]

    def __post_init__(self) -> None:
        count = len(self.scores)
        if self.keypoints0.shape != (count, 2) or self.keypoints1.shape != (count, 2):
            raise ValueError(
                f"keypoints {tuple(self.keypoints0.shape)} and {tuple(self.keypoints1.shape)} are not of {count} "
                "matches"
            )

    def __len__(self) -> int:
        return len(self.scores)

    def part(self, rows: Tensor) -> ImageMatches:
        """The matches of these rows, given by number or by a flag for each match."""
        return ImageMatches(self.keypoints0[rows], self.keypoints1[rows], self.scores[rows])

    @staticmethod
    def empty() -> ImageMatches:
        import torch

        return ImageMatches(torch.zeros(0, 2), torch.zeros(0, 2), torch.zeros(0))


@dataclass(frozen=True, eq=False)
class Evidence:
    """Why a ranking is as it is; every (Q, K) array lies parallel to the ranking's rows."""

    similarity: Floats  # (Q, K) similarity of the global descriptors
    matches: NDArray[np.int32]  # (Q, K) correspondences before verification; -1 where none were sought
    inliers: NDArray[np.int32]  # (Q, K) correspondences after it; -1 where none were sought
    elapsed_s: Doubles  # (Q,) time the query took


@dataclass(frozen=True, eq=False)
class Ranking:
    """For each query, database rows in order of preference."""

    rows: Rows  # (Q, K) int64, best first, NO_ROW pads at the end
    scores: Floats  # (Q, K), never rising along a row, -inf pads
    evidence: Evidence | None = None

    def __post_init__(self) -> None:
        if self.rows.ndim != 2 or self.rows.shape != self.scores.shape:
            raise ValueError(f"rows {self.rows.shape} and scores {self.scores.shape} must be one (Q, K) shape")
        if np.isnan(self.scores).any():
            raise ValueError("a score is not a number")
        if (self.scores[:, 1:] > self.scores[:, :-1]).any():
            raise ValueError("scores rise along a row: sort before making a Ranking")
        if ((self.rows == NO_ROW) != np.isneginf(self.scores)).any():
            raise ValueError("exactly the padded places must score -inf")

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def width(self) -> int:
        return int(self.rows.shape[1])

    def part(self, queries: Sequence[int] | Rows) -> Ranking:
        """The ranking of these queries, in their order."""
        kept = np.asarray(queries, dtype=np.int64)
        evidence = None if self.evidence is None else Evidence(**{k: v[kept] for k, v in vars(self.evidence).items()})
        return Ranking(self.rows[kept], self.scores[kept], evidence)


class LocalExtractor(Protocol):
    """Finds points in images and describes them."""

    channels: Channels  # how the image is to be decoded
    dim: int  # length of a descriptor
    weights: str  # sha256 of the weights in use, or "" for a method without any

    def preprocess(self, image: Image) -> Tensor:
        """Bring one decoded image, (H, W) or (H, W, 3) RGB, to what ``extract`` expects. Runs in loader threads."""

    def extract(self, images: Sequence[Tensor]) -> list[LocalFeatures]:
        """Features of each image; the result does not depend on which images come together."""


class GlobalDescriptor(Protocol):
    """Turns an image into one vector."""

    channels: Channels
    dim: int
    weights: str  # sha256 of the weights in use, or "" for a method without any

    def preprocess(self, image: Image) -> Tensor:
        """Bring one decoded image to what ``describe`` expects. Runs in loader threads."""

    def describe(self, images: Sequence[Tensor]) -> Tensor:
        """(B, dim) unit rows; the result does not depend on which images come together."""


class PatchDescriptor(GlobalDescriptor, Protocol):
    """A global descriptor that also describes the patches of an image, for re-ranking by patches."""

    grids: Sequence[Any]  # one per patch size, see vpr.global_descriptors.patches.PatchGrid
    image_size: tuple[int, int]  # width, height of the image that the patches lie in

    def describe_patches(self, images: Sequence[Tensor]) -> list[tuple[Tensor, Any]]:
        """For each image its global descriptor (D,) and its PatchFeatures."""


class JointDescriptor(GlobalDescriptor, Protocol):
    """A global descriptor that can share the pass of its backbone with a local extractor."""

    def shares_backbone_with(self, extractor: LocalExtractor) -> bool:
        """Whether the extractor sends the same pixels through the same backbone."""

    def describe_with(self, extractor: LocalExtractor, images: Sequence[Tensor]) -> list[tuple[LocalFeatures, Tensor]]:
        """Local features and global descriptor of each image, from one pass of the backbone."""


class LocalAggregator(Protocol):
    """Turns the local features of an image into one vector, by a model fitted on other images' features."""

    dim: int

    def aggregate(self, features: LocalFeatures) -> Floats:
        """(dim,) unit vector, or zeros for an image without points."""

    def save(self, path: Path, half: bool = False, trained_for: Mapping[str, Any] | None = None) -> None:
        """Write the fitted model to a file that the setting ``weights`` can name; ``half`` for a smaller one.

        The file records ``trained_for``, the local features it was fitted on: the fields of vpr.weights.TrainedFor.
        """


class Matcher(Protocol):
    """Finds correspondences between a query and each of its candidates."""

    weights: str  # sha256 of the weights in use, or "" for a method without any

    def match(self, query: LocalFeatures, candidates: Sequence[LocalFeatures]) -> list[Matches]:
        """One Matches per candidate; each equals what the pair alone would give.

        A method that estimates poses on its way has ``match_calibrated`` too, for a pair of known cameras: see
        vpr.matchers.imp.IterativeImp.
        """


@dataclass(frozen=True, eq=False)
class Verified:
    """Result of geometric verification of the matches between two images."""

    inliers: NDArray[np.bool_]  # (M,) which matches agree with one geometry
    model: Doubles | None = None  # (3, 3) fundamental matrix or homography, query to candidate; None if none was found


class ImageMatcher(Protocol):
    """Matches two images directly, without keypoints of each: dense methods."""

    channels: Channels
    weights: str  # sha256 of the weights in use

    def preprocess(self, image: Image) -> Tensor:
        """One decoded image as ``match`` takes it, (C, H, W)."""

    def match(self, query: Tensor, candidates: Sequence[Tensor]) -> list[ImageMatches]:
        """Correspondences of the query with each candidate; each pair as if it were the only one."""


class Verifier(Protocol):
    """Keeps the matches that one geometry explains."""

    def verify(self, pairs: Sequence[tuple[Doubles, Doubles]]) -> list[Verified]:
        """Each pair holds (M, 2) pixels of the query and of a candidate.

        Too few or degenerate matches give no inliers, not an error. The result does not depend on the company.
        """


@dataclass(frozen=True)
class Origin:
    """Where a stored artefact came from; it is written beside the artefact and a mismatch is refused."""

    kind: str  # what the artefact is, for instance "local features"
    fingerprint: str  # of the settings that made it
    weights: str = ""  # sha256 of the weights, or ""
    settings: Mapping[str, Any] = field(default_factory=dict)  # readable copy of what was fingerprinted
