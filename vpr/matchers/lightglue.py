"""LightGlue: matching by a transformer that stops early. Lindenberger et al., ICCV 2023, arXiv:2306.13643.

Weights exist for several local features; the ones for SuperPoint expect the published SuperPoint's, and those for SIFT
and DoG + HardNet also read size and orientation of each keypoint.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from vpr.config import MethodSettings
from vpr.core import LocalFeatures, Matches
from vpr.matchers.lightglue_adaptive import Adaptivity, match_adaptively
from vpr.matchers.lightglue_fast import FastLightGlue, Side
from vpr.matchers.lightglue_network import LightGlueNetwork
from vpr.matchers.one_to_many import ScoreAgreement, match_one_to_many, require_dim
from vpr.runtime.precision import Precision, arithmetic, dtype_of
from vpr.weights import load_published


class Settings(MethodSettings):
    """Settings of LightGlue."""

    method: Literal["lightglue"] = "lightglue"
    weights: str = "vpr-lightglue"  # name or path of weights in the published layout, of any size
    filter_threshold: float = Field(0.1, ge=0, le=1)  # matches are more confident than this
    agreement: ScoreAgreement | None = None  # with this section, matches must agree with those nearby
    depth_confidence: float = Field(0.95, le=1)  # stop when more than this share of the points is confident; -1 never
    width_confidence: float = Field(0.99, le=1)  # leave out points that with this confidence have no match; -1 none
    prune_above: int = Field(0, ge=0)  # leave out points only of larger images; the published code has 1024 on a GPU
    precision: Precision = "fp32"


class LightGlue:
    """Matches one query with many candidates; the score of a match is its probability."""

    def __init__(self, network: LightGlueNetwork, weights: str, settings: Settings, device: torch.device) -> None:
        self.weights = weights
        self.settings = settings
        self.device = device
        self.network = FastLightGlue(network, device, dtype_of(settings.precision, device))
        self.adaptivity = Adaptivity(settings.depth_confidence, settings.width_confidence, settings.prune_above)

    @torch.inference_mode()
    def match(self, query: LocalFeatures, candidates: Sequence[LocalFeatures]) -> list[Matches]:
        require_dim(self.network.input_dim, query, candidates, "LightGlue")
        with arithmetic(self.settings.precision, self.device):
            return match_one_to_many(
                query,
                candidates,
                self.network.encode,
                self._compare,
                reach=LightGlueNetwork.reach,
                threshold=self.settings.filter_threshold,
                agreement=self.settings.agreement,
                device=self.device,
                oriented=self.network.oriented,
            )

    def _compare(self, query: Side, candidates: Side) -> Tensor:
        return match_adaptively(self.network, query, candidates, self.adaptivity).log_scores[:, :-1, :-1]


def build(settings: Settings, device: torch.device) -> LightGlue:
    network = LightGlueNetwork()
    return LightGlue(network, load_published(network, settings.weights, network.convert_state_dict), settings, device)
