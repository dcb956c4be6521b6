"""Shortlist to predictions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch

from vpr.config import Method
from vpr.core import ImageMatcher, Matcher, Verifier
from vpr.matchers import nearest
from vpr.rerank import cost, images, lines, patch_netvlad, reranker, verification
from vpr.rerank.images import ImageReranker
from vpr.rerank.lines import LineMatcher, LineReranker
from vpr.rerank.patch_netvlad import PatchReranker
from vpr.rerank.reranker import LocalReranker, Pair, PairReranker
from vpr.rerank.resumable import rerank_into
from vpr.rerank.scores import SCORES, fuse
from vpr.rerank.verification import VERIFIERS

__all__ = [
    "RERANKERS",
    "SCORES",
    "VERIFIERS",
    "ImageReranker",
    "LineReranker",
    "LocalReranker",
    "Pair",
    "PairReranker",
    "PatchReranker",
    "RerankMethod",
    "fuse",
    "rerank_into",
]


@dataclass(frozen=True)
class RerankMethod(Method[PairReranker[Any]]):
    """One row of the table of re-rankers; ``compares`` is the kind of features that it compares."""

    compares: Literal["local", "patches", "images"]


def build_local_reranker(
    settings: reranker.Settings,
    device: torch.device,
    *,
    matcher: Callable[[], Matcher],
    verifier: Callable[[], Verifier],
    geometry: verification.Settings,
    control: cost.Settings,
    threads: int,
    **_: object,
) -> LocalReranker:
    """Re-ranking by local features."""
    on_cpu = device.type == "cpu"
    return LocalReranker(
        matcher(),
        verifier(),
        settings,
        geometry,
        control=control,
        prefilter=nearest.build(nearest.RATIO_ONLY, device) if control.order == "nearest" else None,
        threads=threads,
        together=4 if on_cpu else 128,
        reads_ahead=not on_cpu,
    )


def build_patch_reranker(
    settings: patch_netvlad.Settings, device: torch.device, *, control: cost.Settings, threads: int, **_: object
) -> PatchReranker:
    """Re-ranking by patches; there is no matcher and no verifier to choose."""
    return PatchReranker(settings, device, control=control, threads=threads, reads_ahead=device.type != "cpu")


def build_image_reranker(
    settings: images.Settings,
    device: torch.device,
    *,
    image_matcher: Callable[[], ImageMatcher],
    verifier: Callable[[], Verifier],
    geometry: verification.Settings,
    control: cost.Settings,
    max_megapixels: float,
    **_: object,
) -> ImageReranker:
    """Re-ranking by an image matcher."""
    return ImageReranker(
        image_matcher(), verifier(), settings, geometry, control=control, max_megapixels=max_megapixels
    )


def build_line_reranker(
    settings: lines.Settings,
    device: torch.device,
    *,
    image_matcher: Callable[[], ImageMatcher],
    verifier: Callable[[], Verifier],
    geometry: verification.Settings,
    control: cost.Settings,
    max_megapixels: float,
    **_: object,
) -> LineReranker:
    """Re-ranking by points and lines."""
    matcher = image_matcher()
    assert isinstance(matcher, LineMatcher)  # the settings see to it
    return LineReranker(
        matcher,
        verifier(),
        settings,
        geometry,
        control=control,
        max_megapixels=max_megapixels,
        together=4 if device.type == "cpu" else 64,
    )


RERANKERS: dict[str, RerankMethod] = {
    "images": RerankMethod(images.Settings, build_image_reranker, compares="images"),
    "local_features": RerankMethod(reranker.Settings, build_local_reranker, compares="local"),
    "points_and_lines": RerankMethod(lines.Settings, build_line_reranker, compares="images"),
    "patch_netvlad": RerankMethod(patch_netvlad.Settings, build_patch_reranker, compares="patches"),
}
