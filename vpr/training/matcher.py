"""SuperGlue, LightGlue, IMP and GlueStick, on the features of any extractor, from pairs whose geometry is known.

Homographies of photographs, scenes with depth and poses, pairs with an estimated fundamental matrix, and images of
different places, of which a matcher that decides about places has to say that nothing matches.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache, partial
from itertools import repeat
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import torch
from pydantic import BeforeValidator, Field, SerializeAsAny
from torch import Tensor, nn

from vpr.config import Chooser, MethodSettings, lookup
from vpr.core import ConfigError, LocalExtractor, LocalFeatures
from vpr.images import as_image
from vpr.local_features import LOCAL_EXTRACTORS
from vpr.local_features.points_and_lines import PointsAndLines, PointsWithLines
from vpr.local_features.superpoint import SuperPoint
from vpr.matchers.gluestick_network import Assigned, GlueStickNetwork
from vpr.matchers.imp_network import ImpNetwork
from vpr.matchers.lightglue_network import LayerResult, LightGlueNetwork
from vpr.matchers.points import PointBatch, stack
from vpr.matchers.superglue_network import SuperGlueNetwork
from vpr.training import correspondence, distributed, line_matching, pairs, photometric
from vpr.training.correspondence import Truth
from vpr.training.dumped_pairs import DumpedPairs, DumpPart, DumpSettings
from vpr.training.eimp import EimpNetwork, PooledAssignment, PoolingSettings
from vpr.training.export import save_weights
from vpr.training.initial import start_as_nearest
from vpr.training.line_matching import SeenLines, joined_lines, of_superglue, seen_lines
from vpr.training.matching_losses import AssignmentLoss, MatchCounts, assignment_loss, confidence_loss, judge
from vpr.training.pictures import Pictures, of_assignment
from vpr.training.pose_consistency import pose_consistency_loss
from vpr.training.randomness import Randomness, randomness
from vpr.training.tensors import on_tensors
from vpr.weights import Record, TrainedFor, features_of, load_published, recipe_of

FEWEST = 16  # points of an image that a pair is trained on
BELIEVED = 0.2  # probability above which a match counts in validation, as in the published settings
LEAST = 1e-13  # probability whose log still teaches
IMP_METHODS = ("imp", "imp_iterative", "eimp", "eimp_iterative")
MANY = 10  # matches between images of different places that would mislead

FEATURES = Chooser(LOCAL_EXTRACTORS, "local feature", default="superpoint", recipe=recipe_of)
View = LocalFeatures | PointsWithLines  # what is known of one image
Network = SuperGlueNetwork | LightGlueNetwork | ImpNetwork | GlueStickNetwork
Features = Annotated[SerializeAsAny[MethodSettings], BeforeValidator(FEATURES)]


class Settings(MethodSettings):
    """Settings of a matcher's training; at least one source of pairs is needed."""

    method: Literal["matcher"] = "matcher"
    # eimp: imp, trained with the pooling
    network: Literal["superglue", "lightglue", "imp", "eimp", "gluestick"] = "superglue"
    features: Features = Field(default_factory=FEATURES.defaults)
    start: Path | None = None  # initial weights; of GlueStick also SuperGlue's
    encoder: tuple[int, ...] = (32, 64, 128, 256)  # widths of the keypoint encoder before D; LightGlue has none
    # Self- and cross-attention layers; of LightGlue and IMP layers or iterations, each of both
    layers: int = Field(18, ge=2)
    heads: int = Field(4, ge=1)  # of LightGlue; the others have 4
    pose_weight: float = Field(0.0, ge=0)  # of IMP's and EIMP's loss of matches that do not give the pose
    pooling: PoolingSettings = PoolingSettings()  # of EIMP
    oriented: bool = False  # LightGlue also reads size and orientation of each keypoint, which SIFT's have
    sinkhorn_iterations: int = Field(50, ge=1)
    size: tuple[int, int] = (640, 480)  # width, height of the images
    points: int = Field(512, ge=FEWEST)  # of each image, the strongest
    truth: correspondence.Settings = correspondence.Settings()
    lines: line_matching.Settings = line_matching.Settings()  # of GlueStick
    light: photometric.Settings = photometric.Settings()
    homographies: pairs.HomographySettings | None = None
    scenes: tuple[pairs.ScenesSettings, ...] = ()
    two_views: pairs.TwoViewSettings | None = None
    negative_pairs: pairs.NegativePairsSettings | None = None
    dump: DumpSettings | None = None  # instead of all these, features and matches that were computed before
    pool: int = Field(0, ge=0)  # pairs of each process whose features are kept in memory; 0: every pair is a new one
    validation_pairs: int = Field(64, ge=1)  # of each source


class MatcherBatch(NamedTuple):
    """Pairs of some sources, or the places of pairs in the pool."""

    parts: tuple[pairs.Part | DumpPart, ...] = ()
    places: tuple[int, ...] = ()


class Seen(NamedTuple):
    """Features of pairs, equally many points of each image, and their partners."""

    first: PointBatch
    second: PointBatch
    truth: Truth
    lines: SeenLines | None = None  # where the network matches segments too

    def inputs(self) -> tuple[Any, ...]:
        """What the network is called with."""
        return (self.first, self.second) + (() if self.lines is None else self.lines[:2])


class MatcherTask:
    """The task: find the partners of points, and the points without one."""

    def __init__(self, settings: Settings, sources: Sequence[pairs.PairSource | DumpedPairs]) -> None:
        self.settings = settings
        self.sources = sources
        self.shares = _shares(settings)
        self.extractor = lru_cache(self._extractor)  # one per device
        self._pooled = lru_cache(maxsize=None)(self._pooled_features)
        network = _network(settings, self.extractor(torch.device("cpu")).dim)
        self.model: nn.Module = network
        self.oriented = network.oriented
        self.reach = network.reach
        for source in sources:
            if isinstance(source, DumpedPairs):
                source.require_features(self._trained_for())

    def batch(self, size: int, random: Randomness) -> MatcherBatch:
        if self.settings.pool:
            return MatcherBatch(places=tuple(random.numpy.integers(self.settings.pool, size=size).tolist()))
        return MatcherBatch(self._draw(size, random))

    def _draw(self, size: int, random: Randomness) -> tuple[pairs.Part | DumpPart, ...]:
        counts = random.numpy.multinomial(size, self.shares)
        drawn = zip(self.sources, counts.tolist(), strict=True)
        return tuple(source.draw(count, random, held=False) for source, count in drawn if count)

    def losses(self, model: nn.Module, batch: MatcherBatch, random: Randomness) -> dict[str, Tensor]:
        device = next(model.parameters()).device
        if batch.places:
            seen = _together([self._pooled(place, device) for place in batch.places])
        else:
            seen = self._see(batch.parts, random, device)
        pooled = self.settings.network == "eimp"
        output = model(*seen.inputs(), seen.truth) if pooled else model(*seen.inputs())
        truths = [each.truth(seen.truth) for each in output] if pooled else repeat(seen.truth)
        of_layers = [assignment_loss(each, known) for each, known in zip(_assignments(output), truths, strict=False)]
        mean = AssignmentLoss(*(torch.stack(parts).mean() for parts in zip(*of_layers, strict=True)))
        loss, losses = mean.total, mean._asdict()
        if seen.lines is not None:
            losses["lines"] = assignment_loss(output.lines, seen.lines.truth).total
            loss = loss + self.settings.lines.weight * losses["lines"]
        elif isinstance(output[0], LayerResult):
            losses["confidence"] = confidence_loss(output)
            loss = loss + losses["confidence"]
        if self.settings.pose_weight:
            scores = [each.probabilities if isinstance(each, PooledAssignment) else each for each in output]
            poses = [pose_consistency_loss(each, seen.first.points, seen.second.points, seen.truth) for each in scores]
            losses["pose"] = torch.stack(poses).mean()
            loss = loss + self.settings.pose_weight * losses["pose"]
        return {"loss": loss, **losses}

    def validate(self, model: nn.Module, device: torch.device) -> dict[str, float]:
        """Matches of held-out pairs, with those of mutual nearest neighbours beside them where partners are known.

        ``f_score`` is over the sources with partners; ``misled`` is the share of pairs of different places with more
        than 10 matches.
        """
        ours, nearest, lines = MatchCounts(), MatchCounts(), MatchCounts()
        misled = negative_pairs = 0
        for source in self.sources:
            for number in range(0, self.settings.validation_pairs, 8):
                random = randomness(1, 8, number)
                part = source.draw(min(8, self.settings.validation_pairs - number), random, held=True)
                seen = self._see((on_tensors(part, lambda each: each.to(device)),), random, device)
                output = model(*seen.inputs())
                counts = judge(_assignments(output)[-1], seen.truth, BELIEVED)
                if seen.lines is not None:
                    lines.add(judge(output.lines, seen.lines.truth, BELIEVED))
                if isinstance(source, pairs.NegativePairs):
                    misled += int((counts["found"] > MANY).sum())
                    negative_pairs += len(counts["found"])
                    continue
                ours.add(counts)
                nearest.add(judge(_cosines(seen.first, seen.second), seen.truth, 0.0))
        figures = {
            **ours.figures(""),
            **nearest.figures("nearest_"),
            **(lines.figures("line_") if lines.wanted else {}),
        }
        return {**figures, "misled": misled / negative_pairs} if negative_pairs else figures

    def pictures(self, model: nn.Module, device: torch.device) -> Pictures:
        """Matches of the first held-out pair of each source; what is not known to be right is grey."""
        shown = {}
        for source in self.sources:
            if isinstance(source, DumpedPairs):  # has no images
                continue
            part = source.draw(1, randomness(1, 8, 0), held=True)
            seen = self._features_of((on_tensors(part, lambda each: each.to(device)),), randomness(1, 8, 0), device)
            if seen is not None:
                points = self._pixels(seen.first), self._pixels(seen.second)
                found = _assignments(model(*seen.inputs()))[-1]
                images = part.first[0], part.second[0]
                shown[f"matches, {source.name}"] = of_assignment(images, points, found, seen.truth, BELIEVED)
        return shown

    def _pixels(self, batch: PointBatch) -> Tensor:
        """(N, 2) pixels of the points of the first image."""
        size = batch.points.new_tensor(self.settings.size)
        return batch.points[0, :, :2] * self.reach * size.max() + size / 2

    def export(self, model: nn.Module, path: Path) -> None:
        network = self.settings.network
        loads = IMP_METHODS if network in ("imp", "eimp") else (network,)
        recipe = self._recipe() if network == "gluestick" else {}
        save_weights(path, model, record=Record(loads=loads, trained_for=self._trained_for(), recipe=recipe))

    def _recipe(self) -> dict[str, Any]:
        """What GlueStick, which extracts the features itself, has to know of them."""
        chosen, lines = self.settings.features, self.settings.lines
        known = {"superpoint": str(getattr(chosen, "weights", "")), "merge_radius": lines.merge_radius}
        return known | {
            "keypoint_threshold": getattr(chosen, "keypoint_threshold", 0.0),
            "nms_radius": getattr(chosen, "nms_radius", 4),
        }

    def _trained_for(self) -> TrainedFor:
        extractor = self.extractor(torch.device("cpu"))
        return features_of(self.settings.features, extractor.dim, extractor.weights)

    def _pooled_features(self, place: int, device: torch.device) -> Seen:
        """A pair of the pool, a pure function of its place and the process; it has all the points that are wanted."""
        for attempt in range(pairs.TRIES):
            random = randomness(2, distributed.rank(), place, attempt)
            seen = self._features_of(self._draw(1, random), random, device)
            if seen is not None and seen.first.points.shape[1] == self.settings.points:
                return seen
        raise ConfigError(f"images with {self.settings.points} points are rare; lower task.points")

    def _see(self, parts: Sequence[pairs.Part | DumpPart], random: Randomness, device: torch.device) -> Seen:
        seen = self._features_of(parts, random, device)
        if seen is None:
            raise ConfigError("no pair of a batch has points enough; lower task.features.keypoint_threshold")
        return seen

    @torch.no_grad()
    def _features_of(
        self, parts: Sequence[pairs.Part | DumpPart], random: Randomness, device: torch.device
    ) -> Seen | None:
        """All pairs that have enough points, cut to equally many; None if there is no such pair."""
        dumped = [self._dumped(part, device) for part in parts if isinstance(part, DumpPart)]
        images = [part for part in parts if isinstance(part, pairs.Part)]
        return _together(dumped) if dumped else self._extracted(images, random, device)

    def _dumped(self, part: DumpPart, device: torch.device) -> Seen:
        first, second = (stack(side, self.reach, device) for side in (part.first, part.second))
        return Seen(first, second, Truth(*(side.to(device) for side in part.truth)))

    def _extracted(self, parts: Sequence[pairs.Part], random: Randomness, device: torch.device) -> Seen | None:
        kept: list[tuple[pairs.Part, list[int], Sequence[View], Sequence[View]]] = []
        for part in parts:
            one, other = (self._features(images, random, device) for images in (part.first, part.second))
            rows = [row for row in range(len(one)) if self._enough(one[row]) and self._enough(other[row])]
            kept.append((part, rows, one, other))
        count = min(
            [self.settings.points, *(len(each[row]) for _, rows, *both in kept for each in both for row in rows)]
        )
        found: list[Seen] = []
        for part, rows, one, other in kept:
            if not rows:
                continue
            views, other_views = ([self._cut(each[row], count) for row in rows] for each in (one, other))
            first, second = ([_points_of(each) for each in side] for side in (views, other_views))
            points, others = (torch.stack([each.keypoints for each in side]).to(device) for side in (first, second))
            batch, other_batch = (stack(side, self.reach, device, oriented=self.oriented) for side in (first, second))
            similarity = batch.descriptors @ other_batch.descriptors.mT
            places = torch.tensor(rows, device=device)
            geometry = on_tensors(part.geometry, partial(torch.index_select, dim=0, index=places))
            truth = geometry.truth(points, others, similarity, self.settings.truth)
            lined = [each for each in (*views, *other_views) if isinstance(each, PointsWithLines)]
            lines = (
                seen_lines(lined[: len(rows)], lined[len(rows) :], geometry, self.settings.lines, device)
                if lined
                else None
            )
            found.append(Seen(batch, other_batch, truth, lines))
        return _together(found) if found else None

    def _enough(self, view: View) -> bool:
        """Whether an image has points enough, and segments."""
        if isinstance(view, LocalFeatures):
            return len(view) >= FEWEST
        wanted = self.settings.lines.count
        return len(view.wireframe.rows) >= wanted and len(view) >= 2 * wanted + FEWEST

    def _cut(self, view: View, count: int) -> View:
        """The strongest points, and the segments wanted."""
        if isinstance(view, LocalFeatures):
            return _strongest(view, count)
        return view.strongest(self.settings.lines.count, count)

    def _features(self, images: Tensor, random: Randomness, device: torch.device) -> Sequence[View]:
        changed = photometric.augment(images.float() / 255, self.settings.light, random.torch)
        extractor = self.extractor(device)
        prepared = (255 * changed).round().byte().cpu()[:, 0].numpy()
        seen = [extractor.preprocess(as_image(image, extractor.channels)) for image in prepared]
        if self.settings.network != "gluestick":
            return extractor.extract(seen)
        assert isinstance(extractor, SuperPoint)
        lines = self.settings.lines
        both = PointsAndLines(extractor, lines.min_length, lines.count, lines.merge_radius)
        return [both.extract(image) for image in seen]

    def _extractor(self, device: torch.device) -> LocalExtractor:
        chosen = self.settings.features
        return lookup(LOCAL_EXTRACTORS, chosen.method, "local feature").build(chosen, device)


def build(settings: Settings) -> MatcherTask:
    """Raises ConfigError if there is no source of pairs, or the features do not fit the images."""
    if settings.dump is not None:
        return _of_dump(settings, settings.dump)
    sources: list[pairs.PairSource] = []
    if settings.homographies is not None:
        sources.append(pairs.HomographyPairs(settings.homographies, settings.size))
    sources += [pairs.ScenePairs(each, settings.size) for each in settings.scenes]
    if settings.two_views is not None:
        sources.append(pairs.TwoViewPairs(settings.two_views, settings.size))
    if settings.negative_pairs is not None:
        sources.append(pairs.NegativePairs(settings.negative_pairs, settings.size))
    if not sources or sum(_shares(settings)) <= 0:
        raise ConfigError("task: name a source of pairs: task.homographies, task.scenes, task.two_views or task.dump")
    if getattr(settings.features, "longest_side", max(settings.size)) < max(settings.size):
        raise ConfigError(f"task.features.longest_side must be at least {max(settings.size)}, as task.size is")
    _require_network(settings)
    return MatcherTask(settings, sources)


def _of_dump(settings: Settings, dump: DumpSettings) -> MatcherTask:
    others = [name for name in ("homographies", "scenes", "two_views", "negative_pairs") if getattr(settings, name)]
    if others:
        raise ConfigError(f"task.dump replaces the other sources of pairs; leave out task.{', task.'.join(others)}")
    if settings.network == "gluestick":
        raise ConfigError("task.dump: a dump holds no line segments, which task.network = 'gluestick' learns")
    if settings.pool or settings.oriented:
        raise ConfigError("task.dump: features are in the dump already, without sizes; leave out pool and oriented")
    _require_network(settings)
    return MatcherTask(settings, [DumpedPairs(dump, settings.points)])


def _require_network(settings: Settings) -> None:
    """Raise ConfigError for settings of another network, and features that do not fit it."""
    if settings.pose_weight and settings.network not in ("imp", "eimp"):
        raise ConfigError(f"task.pose_weight is for task.network = 'imp' and 'eimp', not {settings.network!r}")
    if settings.network == "gluestick":
        if settings.features.method != "superpoint":
            raise ConfigError("task.network = 'gluestick' is for task.features.method = 'superpoint'")
        if settings.points < 2 * settings.lines.count + FEWEST:
            raise ConfigError(f"task.points must be at least {FEWEST} more than the ends of task.lines.count segments")
    if settings.oriented and settings.network != "lightglue":
        raise ConfigError(f"task.oriented is for task.network = 'lightglue', not {settings.network!r}")


def _shares(settings: Settings) -> list[float]:
    """Of the sources, in the order in which they are built; they add up to 1."""
    if settings.dump is not None:
        return [1.0]
    chosen = [settings.homographies, *settings.scenes, settings.two_views, settings.negative_pairs]
    shares = [each.share for each in chosen if each is not None]
    total = sum(shares)
    return [share / total for share in shares] if total > 0 else []


def _network(settings: Settings, dim: int) -> Network:
    network: Network
    if settings.network == "gluestick":
        network = GlueStickNetwork((*settings.encoder, dim), settings.layers)
    elif settings.network == "imp":
        network = ImpNetwork((*settings.encoder, dim), settings.layers, settings.sinkhorn_iterations)
    elif settings.network == "eimp":
        network = EimpNetwork((*settings.encoder, dim), settings.layers, settings.sinkhorn_iterations, settings.pooling)
    elif settings.network == "lightglue":
        network = LightGlueNetwork(dim, dim, settings.layers, settings.heads, oriented=settings.oriented)
    else:
        network = SuperGlueNetwork((*settings.encoder, dim), settings.layers, settings.sinkhorn_iterations)
    start_as_nearest(network)
    if settings.start is not None:
        _start_from(network, str(settings.start))
    return network


def _start_from(network: Network, weights: str) -> None:
    """Load weights of this network, or SuperGlue's into GlueStick, whose other parts stay as they are."""
    if not isinstance(network, GlueStickNetwork):
        load_published(network, weights, network.convert_state_dict)
        return
    load_published(network, weights, lambda state: {**network.state_dict(), **of_superglue(state)})


def _assignments(output: Tensor | Assigned | Sequence[LayerResult | PooledAssignment | Tensor]) -> list[Tensor]:
    """Log-probabilities of the points of every layer or iteration."""
    if isinstance(output, Assigned):
        return [output.points]
    if isinstance(output, Tensor):
        return [output]
    return [each.log_assignment if isinstance(each, LayerResult) else _log(each) for each in output]


def _log(found: PooledAssignment | Tensor) -> Tensor:
    probabilities = found.probabilities if isinstance(found, PooledAssignment) else found
    return probabilities.clamp_min(LEAST).log()


def _points_of(view: View) -> LocalFeatures:
    return view if isinstance(view, LocalFeatures) else view.points


def _strongest(features: LocalFeatures, count: int) -> LocalFeatures:
    return features.part(torch.sort(features.scores, descending=True, stable=True).indices[:count])


def _cosines(first: PointBatch, second: PointBatch) -> Tensor:
    """Log of descriptors' similarity, with dustbins of nothing, for ``judge``."""
    similarity = (first.descriptors @ second.descriptors.mT).clamp_min(1e-6).log()
    return torch.nn.functional.pad(similarity, (0, 1, 0, 1), value=-torch.inf)


def _together(seen: Sequence[Seen]) -> Seen:
    """All pairs as one batch."""
    sides = zip(*(each.truth for each in seen), strict=True)
    lines = [each.lines for each in seen if each.lines is not None]
    return Seen(
        _joined([each.first for each in seen]),
        _joined([each.second for each in seen]),
        Truth(*(torch.cat(side) for side in sides)),
        joined_lines(lines) if lines else None,
    )


def _joined(batches: Sequence[PointBatch]) -> PointBatch:
    points, scores, descriptors = (
        torch.cat(each) for each in zip(*((b.points, b.scores, b.descriptors) for b in batches), strict=True)
    )
    return PointBatch(points, scores, descriptors)
