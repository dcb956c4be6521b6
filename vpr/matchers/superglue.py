"""SuperGlue: matching by a graph network and optimal transport. Sarlin et al., CVPR 2020, arXiv:1911.11763.

The published weights expect the published SuperPoint's features, and may not be used commercially or passed on.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from vpr.config import MethodSettings
from vpr.core import LocalFeatures, Matches
from vpr.matchers.one_to_many import ScoreAgreement, match_one_to_many, require_dim
from vpr.matchers.superglue_fast import Encoded, FastSuperGlue
from vpr.matchers.superglue_network import SuperGlueNetwork
from vpr.runtime.precision import Precision, arithmetic, dtype_of
from vpr.weights import load_published


class Settings(MethodSettings):
    """Settings of SuperGlue."""

    method: Literal["superglue"] = "superglue"
    weights: str = "vpr-superglue"  # name or path of weights in the published layout, of any size
    sinkhorn_iterations: int = Field(20, ge=1)
    match_threshold: float = Field(0.2, ge=0, le=1)  # matches are more confident than this
    agreement: ScoreAgreement | None = None  # with this section, matches must agree with those nearby
    precision: Precision = "fp32"


class SuperGlue:
    """Matches one query with many candidates; the score of a match is its probability."""

    def __init__(self, network: SuperGlueNetwork, weights: str, settings: Settings, device: torch.device) -> None:
        self.weights = weights
        self.settings = settings
        self.device = device
        self.network = FastSuperGlue(network, device, dtype_of(settings.precision, device))

    @torch.inference_mode()
    def match(self, query: LocalFeatures, candidates: Sequence[LocalFeatures]) -> list[Matches]:
        require_dim(self.network.dim, query, candidates, "SuperGlue")
        with arithmetic(self.settings.precision, self.device):
            return match_one_to_many(
                query,
                candidates,
                self.network.encode,
                self._compare,
                reach=SuperGlueNetwork.reach,
                threshold=self.settings.match_threshold,
                agreement=self.settings.agreement,
                device=self.device,
            )

    def _compare(self, query: Encoded, candidates: Encoded) -> Tensor:
        return self.network.log_assignment(query, candidates)[:, :-1, :-1]


def build(settings: Settings, device: torch.device) -> SuperGlue:
    network = SuperGlueNetwork(sinkhorn_iterations=settings.sinkhorn_iterations)
    return SuperGlue(network, load_published(network, settings.weights, network.convert_state_dict), settings, device)
