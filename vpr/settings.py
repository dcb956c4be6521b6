"""The settings of a run: every section, its keys and their defaults, in the order of the data flow."""

from __future__ import annotations

import os
from collections import ChainMap
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

import tomli_w
from pydantic import BeforeValidator, Field, SerializeAsAny, field_validator, model_validator

from vpr.config import Chooser, Method, MethodSettings, Section, config_path, load
from vpr.global_descriptors import GLOBAL_DESCRIPTORS, LOCAL_AGGREGATORS
from vpr.global_descriptors.patch_netvlad import Settings as PatchNetVladSettings
from vpr.images import MAX_MEGAPIXELS
from vpr.local_features import LOCAL_EXTRACTORS
from vpr.matchers import IMAGE_MATCHERS, LINE_MATCHERS, MATCHERS
from vpr.rerank import RERANKERS, patch_netvlad, reranker
from vpr.rerank.cost import Settings as Cost
from vpr.rerank.reranker import RerankSettings
from vpr.rerank.verification import Settings as Verification
from vpr.weights import recipe_of

# A view of both tables, so that a line added to either is known here.
GLOBAL_METHODS: Mapping[str, Method[Any]] = ChainMap({}, GLOBAL_DESCRIPTORS, LOCAL_AGGREGATORS)

LOCAL = Chooser(LOCAL_EXTRACTORS, "local feature", default="superpoint", recipe=recipe_of)
GLOBAL = Chooser(GLOBAL_METHODS, "global descriptor", default="place", recipe=recipe_of)
AGGREGATOR = Chooser(LOCAL_AGGREGATORS, "descriptor of local features", default="vlad", recipe=recipe_of)
MATCHER = Chooser(MATCHERS, "matcher", default="nearest", recipe=recipe_of)

IMAGE_MATCHER = Chooser(IMAGE_MATCHERS, "image matcher", default="loftr", recipe=recipe_of)

LocalSettings = Annotated[SerializeAsAny[MethodSettings], BeforeValidator(LOCAL)]
GlobalSettings = Annotated[SerializeAsAny[MethodSettings], BeforeValidator(GLOBAL)]
AggregatorSettings = Annotated[SerializeAsAny[MethodSettings], BeforeValidator(AGGREGATOR)]
MatcherSettings = Annotated[SerializeAsAny[MethodSettings], BeforeValidator(MATCHER)]
ImageMatcherSettings = Annotated[SerializeAsAny[MethodSettings], BeforeValidator(IMAGE_MATCHER)]
Rerank = Annotated[
    SerializeAsAny[RerankSettings], BeforeValidator(Chooser(RERANKERS, "re-ranker", default="local_features"))
]
# Of highest likelihood on the held-out places of vpr-place's training; see docs/results.md. Also in superpoint_place.
WEIGHTS_OF_JOINED = {"retrieval_weight": 1.7, "evidence_weight": 2.4}


class Machine(Section):
    """Where the work is done; changes no result beyond rounding."""

    device: str = "auto"  # "auto" takes CUDA where there is one; or "cpu", "cuda", "cuda:1"
    threads: int = Field(0, ge=0)  # for decoding and verification; 0 for one per core


class Images(Section):
    """Settings of reading images."""

    on_bad_image: Literal["skip", "fail"] = "skip"
    max_megapixels: float = Field(MAX_MEGAPIXELS, gt=0)
    masks: str = ""  # an image for all, or a folder of images: black pixels give no features; "auto": see masks


class Store(Section):
    """Settings of the feature store."""

    batch_size: int = Field(16, ge=1)  # images per batch of the network
    shard_size: int = Field(128, ge=1)  # images per file
    dtype: Literal["float16", "float32"] = "float16"  # of local descriptors and scores


class Joined(Section):
    """A global descriptor of local features that is joined with that of the image: their similarities are added."""

    descriptor: AggregatorSettings = Field(default_factory=AGGREGATOR.defaults)
    weight: float = Field(0.5, gt=0, lt=1)  # of its similarity; the rest is that of the image's descriptor


class Index(Section):
    """The FAISS index of the global descriptors."""

    factory: str = "Flat"
    search: str = ""  # FAISS's search-time parameters, for instance "nprobe=32"
    gpu: bool = False  # needs faiss-gpu


class Shortlist(Section):
    """Settings of the shortlist."""

    k: int = Field(100, ge=1)
    one_per_group: bool = False  # only the best cut-out of each panorama


class Rotations(Section):
    """Rotations of the queries."""

    # Degrees, counter-clockwise; with several, each query is described at each, and the one that verifies best is kept.
    degrees: tuple[Literal[0, 90, 180, 270], ...] = Field((0,), min_length=1)
    k: int = Field(5, ge=1)  # candidates of each rotation that are compared for that

    @field_validator("degrees")
    @classmethod
    def _once(cls, degrees: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(degrees)) < len(degrees):
            raise ValueError(f"{list(degrees)} holds a rotation twice")
        return degrees


class Evaluation(Section):
    """Settings of the evaluation."""

    radius_m: float = Field(25.0, gt=0)
    recall_at: tuple[Annotated[int, Field(ge=1)], ...] = Field((1, 5, 10, 20, 50, 100), min_length=1)
    bootstrap: int = Field(1000, ge=1)  # bootstrap samples behind the intervals
    seed: int = 0


class Output(Section):
    """Names in the files that a run writes."""

    shortlist_name: str = Field("shortlist", pattern=r"^[\w+.-]+$")  # <name>_predictions.txt and recalls.txt
    predictions_name: str = Field("reranked", pattern=r"^[\w+.-]+$")
    failures: int = Field(24, ge=0)  # shown with images in the report, and a quarter as many rescued and right answers
    keypoints: bool = False  # whether images of matches show all keypoints
    match_images: int = Field(0, ge=0)  # queries whose first candidate is drawn with its matches, in match_images/
    match_image_format: Literal["jpg", "png", "pdf", "svg"] = "jpg"

    @model_validator(mode="after")
    def _differ(self) -> Output:
        if self.shortlist_name == self.predictions_name:
            raise ValueError("shortlist_name and predictions_name must differ, since they name files")
        return self


class Settings(Section):
    """All settings of a run."""

    machine: Machine = Machine()
    images: Images = Images()
    store: Store = Store()
    local_features: LocalSettings = Field(default_factory=LOCAL.defaults)
    global_descriptor: GlobalSettings = Field(default_factory=GLOBAL.defaults)
    joined: Joined | None = None  # for a global descriptor of images; on where no other descriptor is chosen
    index: Index = Index()
    rotations: Rotations = Rotations()
    shortlist: Shortlist = Shortlist()
    matcher: MatcherSettings = Field(default_factory=MATCHER.defaults)
    image_matcher: ImageMatcherSettings = Field(default_factory=IMAGE_MATCHER.defaults)  # of rerank.method = "images"
    verification: Verification = Verification()
    rerank: Rerank = reranker.Settings()
    cost: Cost = Cost()
    evaluation: Evaluation = Evaluation()
    output: Output = Output()

    @model_validator(mode="before")
    @classmethod
    def _joined_by_default(cls, values: Any) -> Any:
        """The default descriptor is joined with VLAD of the local features; one that is chosen stands by itself.

        Re-ranking then has the weights that were fitted to such a shortlist.
        """
        if not isinstance(values, Mapping) or "joined" in values:
            return values
        descriptor, rerank = (values.get(key) or {} for key in ("global_descriptor", "rerank"))
        chosen = [each for each in (descriptor, rerank) if not isinstance(each, Mapping) or "method" in each]
        return values if chosen else {**values, "joined": {}, "rerank": {**WEIGHTS_OF_JOINED, **rerank}}

    @model_validator(mode="after")
    def _shortlist_reaches(self) -> Settings:
        if min(self.evaluation.recall_at) > self.shortlist.k:
            raise ValueError(
                f"evaluation.recall_at begins at {min(self.evaluation.recall_at)}, "
                f"but a shortlist holds shortlist.k = {self.shortlist.k} candidates"
            )
        return self

    @model_validator(mode="after")
    def _joins_two_kinds(self) -> Settings:
        if self.joined is not None and self.global_descriptor.method not in GLOBAL_DESCRIPTORS:
            raise ValueError(
                f"[joined] adds a descriptor of local features to one of the image, but "
                f"global_descriptor.method = {self.global_descriptor.method!r} is made of local features itself; "
                "switch it off with joined = false, or choose a descriptor of images"
            )
        if self.joined is not None and self.rerank.method == "patch_netvlad":
            raise ValueError("[joined] needs local features, which rerank.method = 'patch_netvlad' does not extract")
        return self

    @model_validator(mode="after")
    def _turned_before_they_are_described(self) -> Settings:
        if self.rotations.degrees != (0,) and RERANKERS[self.rerank.method].compares == "images":
            raise ValueError(
                f"rotations.degrees: rerank.method = {self.rerank.method!r} compares the queries as they are"
            )
        return self

    @model_validator(mode="after")
    def _lines_are_matched(self) -> Settings:
        chosen = self.image_matcher.method
        if self.rerank.method == "points_and_lines" and chosen not in LINE_MATCHERS:
            known = " or ".join(map(repr, LINE_MATCHERS))
            raise ValueError(
                f"rerank.method = 'points_and_lines' needs image_matcher.method = {known}, not {chosen!r}; for other "
                "image matchers take rerank.method = 'images'"
            )
        return self

    @model_validator(mode="after")
    def _patches_are_extracted(self) -> Settings:
        if not isinstance(self.rerank, patch_netvlad.Settings):
            return self
        if not isinstance(self.global_descriptor, PatchNetVladSettings):
            raise ValueError('rerank.method = "patch_netvlad" needs global_descriptor.method = "patch_netvlad"')
        sizes, weights = self.global_descriptor.patch_sizes, self.rerank.patch_weights
        if len(sizes) != len(weights):
            raise ValueError(
                f"rerank.patch_weights = {weights} must have one value for each of "
                f"global_descriptor.patch_sizes = {sizes}"
            )
        return self


def configured(config: str | os.PathLike[str] | None, values: Mapping[str, Any]) -> Settings:
    """The settings of a config, by name or path, with values laid over them."""
    return load(Settings, None if config is None else config_path(os.fspath(config)), list(_overrides(values)))


def _overrides(values: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """``section.key=value`` for every value in nested dictionaries."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _overrides(value, f"{prefix}{key}.")
        else:
            text = tomli_w.dumps({"value": False if value is None else value}).removeprefix("value = ").strip()
            yield f"{prefix}{key}={text}"
