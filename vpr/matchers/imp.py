"""IMP: matching by a recurrent graph network. Xue, Budvytis and Cipolla, CVPR 2023, arXiv:2304.14837.

One network gives matches after any number of iterations. ``imp_iterative`` estimates a relative pose as it goes, and
stops once that settles. The published weights exist for SuperPoint and for SIFT, and may not be used commercially;
``vpr-imp`` is for the features of ``vpr-superpoint``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Generic, Literal, TypeVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from vpr.config import MethodSettings
from vpr.core import ConfigError, Doubles, LocalFeatures, Matches
from vpr.matchers.imp_fast import FastImp, GraphSide
from vpr.matchers.imp_iterative import IterativeResult, Stopping, default_intrinsics, match_iteratively
from vpr.matchers.imp_matching import assigning, match_sides
from vpr.matchers.imp_network import ImpNetwork
from vpr.matchers.imp_pooling import Pooling
from vpr.matchers.one_to_many import ScoreAgreement, match_one_to_many, require_dim
from vpr.matchers.points import stack
from vpr.runtime.precision import Precision, arithmetic, dtype_of
from vpr.weights import load_published


class GraphSettings(MethodSettings):
    """Settings that IMP and EIMP have in common."""

    weights: str = "vpr-imp"  # name or path of weights in the published layout, of any size
    iterations: int = Field(0, ge=0)  # at most; 0 is as many as the weights have
    assignment: Literal["sinkhorn", "dual_softmax"] = "sinkhorn"
    sinkhorn_iterations: int = Field(20, ge=1)
    match_threshold: float = Field(0.2, ge=0, le=1)  # matches are more confident than this
    precision: Precision = "fp32"


class IterativeSettings(GraphSettings):
    """Settings of the iterative matching of both."""

    pose_threshold: float = Field(0.1, ge=0, le=1)  # poses are estimated from matches more confident than this
    min_matches: int = Field(25, ge=5)  # for a pose
    max_error: float = Field(1.0, gt=0)  # pixels from the epipolar line
    stop_deg: float = Field(1.5, ge=0)  # stop when a pose is no further from the one before
    focal: float = Field(1.2, gt=0)  # focal length over an image's longer side, where the camera is unknown

    def stopping(self) -> Stopping:
        return Stopping(self.match_threshold, self.pose_threshold, self.min_matches, self.max_error, self.stop_deg)


S = TypeVar("S", bound=GraphSettings)


class Settings(GraphSettings):
    """Settings of IMP."""

    method: Literal["imp"] = "imp"
    agreement: ScoreAgreement | None = None  # with this section, matches must agree with those nearby


class ImpIterativeSettings(IterativeSettings):
    """Settings of IMP's iterative matching."""

    method: Literal["imp_iterative"] = "imp_iterative"


class _GraphMatcher(Generic[S]):
    """The network on a device, with what both ways of matching by it need."""

    def __init__(
        self, network: ImpNetwork, weights: str, settings: S, device: torch.device, *, pooling: Pooling | None = None
    ) -> None:
        self.weights = weights
        self.settings = settings
        self.device = device
        self.pooling = pooling
        self.network = FastImp(network, device, dtype_of(settings.precision, device))
        self.iterations = iterations_of(self.network, settings)
        self.assign = assigning(settings.assignment, settings.sinkhorn_iterations)


class Imp(_GraphMatcher[GraphSettings]):
    """Matches one query with many candidates; the score of a match is its probability."""

    def __init__(
        self,
        network: ImpNetwork,
        weights: str,
        settings: GraphSettings,
        device: torch.device,
        *,
        agreement: ScoreAgreement | None = None,
        pooling: Pooling | None = None,
    ) -> None:
        super().__init__(network, weights, settings, device, pooling=pooling)
        self.agreement = agreement

    @torch.inference_mode()
    def match(self, query: LocalFeatures, candidates: Sequence[LocalFeatures]) -> list[Matches]:
        require_dim(self.network.dim, query, candidates, "IMP")
        with arithmetic(self.settings.precision, self.device):
            found = match_one_to_many(
                query,
                candidates,
                self.network.encode,
                self._compare,
                reach=ImpNetwork.reach,
                threshold=self.settings.match_threshold,
                agreement=self.agreement,
                device=self.device,
            )
        return [Matches(each.pairs, each.scores.clamp(max=1)) for each in found]

    def _compare(self, query: GraphSide, candidates: GraphSide) -> Tensor:
        return match_sides(self.network, query, candidates, self.iterations, self.assign, pooling=self.pooling).log()


class IterativeImp(_GraphMatcher[IterativeSettings]):
    """Matches pairs one after the other, each in as many iterations as it takes until its relative pose settles."""

    def __init__(
        self,
        network: ImpNetwork,
        weights: str,
        settings: IterativeSettings,
        device: torch.device,
        *,
        pooling: Pooling | None = None,
        uncertainty: bool = False,
    ) -> None:
        super().__init__(network, weights, settings, device, pooling=pooling)
        self.uncertainty = uncertainty

    @torch.inference_mode()
    def match(self, query: LocalFeatures, candidates: Sequence[LocalFeatures]) -> list[Matches]:
        """Matches that a pose explains, of cameras with the focal length of the settings."""
        require_dim(self.network.dim, query, candidates, "IMP")
        if not len(query):
            return [Matches.empty()] * len(candidates)
        mine = self._encode(query)
        return [
            self._match(mine, each, (_pixels(query), _pixels(each)), self._guessed(query, each)).matches
            if len(each)
            else Matches.empty()
            for each in candidates
        ]

    @torch.inference_mode()
    def match_calibrated(
        self,
        first: LocalFeatures,
        second: LocalFeatures,
        points: tuple[Doubles, Doubles],
        intrinsics: tuple[Doubles, Doubles],
    ) -> IterativeResult:
        """One pair of images of known cameras; the keypoints' places (N, 2) are in pixels of the intrinsics (3, 3)."""
        require_dim(self.network.dim, first, [second], "IMP")
        if not (len(first) and len(second)):
            nothing = torch.zeros(0, dtype=torch.int64)
            return IterativeResult(Matches.empty(), None, 0, (nothing, nothing))
        return self._match(self._encode(first), second, points, intrinsics)

    def _guessed(self, *images: LocalFeatures) -> tuple[Doubles, Doubles]:
        first, second = (default_intrinsics(each, self.settings.focal) for each in images)
        return first, second

    def _encode(self, features: LocalFeatures) -> GraphSide:
        with arithmetic(self.settings.precision, self.device):
            return self.network.encode(stack([features], ImpNetwork.reach, self.device))

    def _match(
        self,
        mine: GraphSide,
        second: LocalFeatures,
        points: tuple[Doubles, Doubles],
        intrinsics: tuple[Doubles, Doubles],
    ) -> IterativeResult:
        with arithmetic(self.settings.precision, self.device):
            return match_iteratively(
                self.network,
                (mine, self._encode(second)),
                points,
                intrinsics,
                iterations=self.iterations,
                assign=self.assign,
                stopping=self.settings.stopping(),
                pooling=self.pooling,
                uncertainty=self.uncertainty,
            )


def _pixels(features: LocalFeatures) -> Doubles:
    return np.asarray(features.keypoints.cpu().numpy(), dtype=np.float64)


def iterations_of(network: FastImp, settings: GraphSettings) -> int:
    """How many the settings ask for. Raises ConfigError for more than the weights have."""
    if settings.iterations > network.iterations:
        raise ConfigError(
            f"matcher.iterations = {settings.iterations}: these weights have {network.iterations}; choose at most that"
        )
    return settings.iterations or network.iterations


def load(settings: GraphSettings) -> tuple[ImpNetwork, str]:
    """The network with its weights, and their sha256."""
    network = ImpNetwork(sinkhorn_iterations=settings.sinkhorn_iterations)
    return network, load_published(network, settings.weights, network.convert_state_dict)


def build(settings: Settings, device: torch.device) -> Imp:
    return Imp(*load(settings), settings, device, agreement=settings.agreement)


def build_iterative(settings: ImpIterativeSettings, device: torch.device) -> IterativeImp:
    return IterativeImp(*load(settings), settings, device)
