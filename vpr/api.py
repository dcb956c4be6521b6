"""The public functions: match two images, load a method, run both stages, evaluate a ranking.

Images are given as paths, as arrays (H, W) or (H, W, 3) RGB uint8, or as PIL images. A method is named as in a config,
and its settings are given as keyword arguments. Errors are those of the command line: ConfigError for settings,
WeightsError for weights, ImageError and DataError for files.
"""

from __future__ import annotations

import html
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from vpr.build import PairMethods, build_descriptor, build_local, build_matcher, build_pair_methods, refuse_masks
from vpr.core import DataError, Dataset, Floats, Image, LocalFeatures, Matches, Ranking
from vpr.evaluation.comparison import Summary, summarise
from vpr.images import ImageLike, as_image, moved
from vpr.report.drawing import Correspondences, jpeg_uri
from vpr.report.match_images import MatchImage, write_match_image
from vpr.rerank.scores import same_place
from vpr.settings import Settings, configured

if TYPE_CHECKING:
    from vpr.core import GlobalDescriptor, LocalExtractor, Matcher

PathLike: TypeAlias = "str | os.PathLike[str]"


@dataclass(frozen=True, eq=False)
class PairMatches:
    """Matches of two images."""

    keypoints_a: Floats  # (N, 2) x, y in pixels of the first image
    keypoints_b: Floats  # (M, 2) of the second
    pairs: NDArray[np.int64]  # (K, 2) row in keypoints_a, row in keypoints_b
    confidences: Floats  # (K,) of each match, in [0, 1]
    inliers: NDArray[np.bool_]  # (K,) which matches agree with one geometry
    model: NDArray[np.float64] | None  # (3, 3) fundamental matrix or homography, first to second; None if not found
    score: float  # how much speaks for one place: the higher the better
    inliers_by_chance: float  # as many inliers unrelated images give; None of them proves anything below
    image_a: Image  # (H, W, 3) RGB uint8, as given
    image_b: Image

    @property
    def same_place(self) -> bool:
        """Whether there are clearly more inliers than unrelated images give."""
        return same_place(int(self.inliers.sum()), self.inliers_by_chance)

    def draw(self, *, keypoints: bool = False) -> Image:
        """Both images side by side with a line per match, inliers coloured by confidence; (H, W, 3) RGB uint8.

        With ``keypoints`` all of them are shown as dots.
        """
        return self._image(keypoints).drawn()

    def save(self, path: PathLike, *, keypoints: bool = False) -> Path:
        """Write the drawing and return its path; the suffix chooses the format: png, jpg, pdf, svg and others.

        Raises ConfigError for an unknown format.
        """
        target = Path(path)
        write_match_image(target, self._image(keypoints))
        return target

    def _image(self, keypoints: bool) -> MatchImage:
        found = Correspondences(
            self.keypoints_a[self.pairs[:, 0]],
            self.keypoints_b[self.pairs[:, 1]],
            self.inliers,
            self.confidences,
            self.keypoints_a if keypoints else None,
            self.keypoints_b if keypoints else None,
        )
        return MatchImage(self.image_a, self.image_b, found)

    def show(self) -> None:
        """Open the drawing in the system's image viewer; a notebook shows it by itself."""
        from PIL import Image as Pil

        Pil.fromarray(self.draw()).show()

    def __str__(self) -> str:
        return (
            f"{int(self.inliers.sum())} inliers of {len(self.pairs)} matches between {len(self.keypoints_a)} and "
            f"{len(self.keypoints_b)} keypoints; unrelated images give up to about {self.inliers_by_chance:.0f}; "
            f"score {self.score:.3f}"
        )

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return f'<img src="{jpeg_uri(self.draw())}" style="max-width:100%"><p>{html.escape(str(self))}</p>'


@dataclass(frozen=True, eq=False)
class ExtractorModel:
    """A local extractor with its weights loaded; call it with an image."""

    settings: Settings
    extractor: LocalExtractor

    def __call__(self, image: ImageLike) -> LocalFeatures:
        """Keypoints, scores and descriptors of one image, in pixels of the image that the method saw."""
        return self.extractor.extract([self.extractor.preprocess(as_image(image, self.extractor.channels))])[0]


@dataclass(frozen=True, eq=False)
class MatcherModel:
    """A matcher with its weights loaded; call it with the local features of two images."""

    settings: Settings
    matcher: Matcher

    def __call__(self, a: LocalFeatures, b: LocalFeatures) -> Matches:
        """Correspondences: pairs (M, 2) of rows in a and b, and scores (M,) in [0, 1]."""
        return self.matcher.match(a, [b])[0]


@dataclass(frozen=True, eq=False)
class DescriptorModel:
    """A global descriptor with its weights loaded; call it with an image."""

    settings: Settings
    descriptor: GlobalDescriptor

    def __call__(self, image: ImageLike) -> Floats:
        """(D,) float32 unit vector; the inner product of two is their similarity."""
        prepared = self.descriptor.preprocess(as_image(image, self.descriptor.channels))
        vector: Floats = self.descriptor.describe([prepared])[0].float().cpu().numpy()
        return vector


def match(a: ImageLike, b: ImageLike, config: PathLike | None = None, **settings: Any) -> PairMatches:
    """Match two images, by the local features, matcher and verification of a config.

    Settings are given by section, for instance ``matcher={"ratio": 0.8}``. The default is that of ``vpr match-two``.
    """
    chosen = configured(config, settings)
    methods = _pair_methods(chosen)
    images = [as_image(image, "rgb") for image in (a, b)]
    compared = [methods.compared(image) for image in (a, b)]
    pair = methods.reranker.pair(*compared)
    found = pair.matched(*compared)
    keypoints = [
        moved(each.keypoints.numpy(), each.image_size, (image.shape[1], image.shape[0]))
        for each, image in zip(found, images, strict=True)
    ]
    return PairMatches(
        keypoints[0],
        keypoints[1],
        pair.matches.pairs.numpy(),
        pair.matches.scores.numpy(),
        pair.verified.inliers,
        pair.verified.model,
        methods.reranker.score(pair),
        pair.evidence.by_chance,
        images[0],
        images[1],
    )


def load_extractor(method: str = "superpoint", config: PathLike | None = None, **settings: Any) -> ExtractorModel:
    """A local extractor by name, for instance ``load_extractor("superpoint", max_keypoints=2048)``."""
    chosen = configured(config, {"local_features": {"method": method, **settings}})
    refuse_masks(chosen, "an extractor of single images")
    return ExtractorModel(chosen, build_local(chosen))


def load_matcher(
    method: str = "nearest", features: ExtractorModel | None = None, config: PathLike | None = None, **settings: Any
) -> MatcherModel:
    """A matcher by name, for the features of an extractor: a combination that does not fit is refused."""
    given: dict[str, Any] = {"matcher": {"method": method, **settings}}
    if features is not None:
        given["local_features"] = features.settings.local_features.model_dump(exclude_none=True)
    chosen = configured(config, given)
    return MatcherModel(chosen, build_matcher(chosen))


def load_descriptor(method: str, config: PathLike | None = None, **settings: Any) -> DescriptorModel:
    """A global descriptor of images by name, for instance ``load_descriptor("cosplace", weights=...)``."""
    chosen = configured(config, {"global_descriptor": {"method": method, **settings}})
    return DescriptorModel(chosen, build_descriptor(chosen))


@dataclass(frozen=True, eq=False)
class RunSummary:
    """A finished run: its rankings, and where its files lie."""

    out: Path  # predictions, recalls, report
    dataset: Dataset
    stages: Mapping[str, Ranking]  # by name: the shortlist first, the predictions last
    summary: Summary | None  # recall; None without ground truth
    _table: str = field(repr=False, default="")

    @property
    def predictions(self) -> Ranking:
        """Of the last stage."""
        return list(self.stages.values())[-1]

    @property
    def report(self) -> Path:
        """The HTML report."""
        return self.out / "report.html"

    def recall(self, k: int = 1) -> float | None:
        """Recall@k of the predictions over all queries; None without ground truth. Raises DataError for another k."""
        if self.summary is None:
            return None
        table = list(self.summary.recalls.values())[-1]
        if k not in table.ks:
            raise DataError(f"recall@{k} was not measured; known: {', '.join(map(str, table.ks))}")
        return table.over_all[table.ks.index(k)].value

    def __str__(self) -> str:
        return f"{self._table}\nReport: {self.report}"

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(str(self))}</pre>"


def run(
    database: PathLike,
    queries: PathLike,
    out: PathLike | None = None,
    config: PathLike | None = None,
    *,
    ground_truth: bool = True,
    features: PathLike | None = None,
    **settings: Any,
) -> RunSummary:
    """Both stages on two folders of images; writes predictions, recalls and the report.

    ``out`` is a temporary folder by default; ``features`` is a folder for features that several runs share. Settings
    are given by section, for instance ``rerank={"k": 20}``.
    Raises ConfigError, DataError or WeightsError, as ``vpr run`` does.
    """
    from vpr import datasets, pipeline
    from vpr.report.tables import text_table
    from vpr.runtime import device

    chosen = configured(config, settings)
    folder = Path(tempfile.mkdtemp(prefix="vpr-")) if out is None else Path(out)
    dataset = datasets.read_pair(Path(database), Path(queries), chosen.evaluation.radius_m, ground_truth=ground_truth)
    facts = device.facts("vpr.run", device.device_of(chosen.machine.device))
    about = datasets.with_warnings(facts, datasets.warn(dataset))
    shared = None if features is None else Path(features)
    result = pipeline.run(dataset, chosen, folder, about, features_folder=shared)
    table = "No ground truth, so no recall." if result.summary is None else text_table(result.summary)
    return RunSummary(folder, dataset, result.stages, result.summary, table)


def evaluate(
    dataset: Dataset, stages: Mapping[str, Ranking], ks: Sequence[int] = (1, 5, 10), *, seed: int = 0
) -> Summary:
    """Recall@k of rankings with confidence intervals, and what changed from the first to the last.

    Raises DataError without ground truth.
    """
    return summarise(dataset, stages, ks, seed=seed)


_PAIR_METHODS: dict[str, PairMethods] = {}


def _pair_methods(settings: Settings) -> PairMethods:
    """Returns the matcher of pairs; that of the last call is used again if the settings are equal."""
    key = settings.model_dump_json()
    if key not in _PAIR_METHODS:
        made = build_pair_methods(settings, dense=True)
        _PAIR_METHODS.clear()
        _PAIR_METHODS[key] = made
    return _PAIR_METHODS[key]
