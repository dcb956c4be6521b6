"""EIMP: IMP that leaves out keypoints on the way. Xue, Budvytis and Cipolla, CVPR 2023, arXiv:2304.14837.

The network and its weights are those of vpr.matchers.imp; published weights of EIMP were trained with the pooling.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field

from vpr.matchers.imp import GraphSettings, Imp, IterativeImp, IterativeSettings, load
from vpr.matchers.imp_pooling import Pooling
from vpr.matchers.one_to_many import ScoreAgreement


class Settings(GraphSettings):
    """Settings of EIMP."""

    method: Literal["eimp"] = "eimp"
    agreement: ScoreAgreement | None = None  # with this section, matches must agree with those nearby
    pooling_threshold: float = Field(0.1, ge=0)  # keypoints with at least this probability of any match stay
    min_keypoints: int = Field(256, ge=1)  # an image with no more keeps all
    pooling: Literal["drop", "mask"] = "drop"  # "mask" as the published forward pass, which saves no time


class EimpIterativeSettings(IterativeSettings):
    """Settings of EIMP's iterative matching."""

    method: Literal["eimp_iterative"] = "eimp_iterative"
    pooling_threshold: float = Field(0.2, ge=0)  # keypoints with at least this probability of any match stay
    min_keypoints: int = Field(256, ge=1)  # an image with no more keeps all
    uncertainty: bool = True  # multiply pooling_threshold by the share of matches that the pose explains


def build(settings: Settings, device: torch.device) -> Imp:
    pooling = Pooling(settings.pooling_threshold, settings.min_keypoints, settings.pooling)
    return Imp(*load(settings), settings, device, agreement=settings.agreement, pooling=pooling)


def build_iterative(settings: EimpIterativeSettings, device: torch.device) -> IterativeImp:
    pooling = Pooling(settings.pooling_threshold, settings.min_keypoints)
    return IterativeImp(*load(settings), settings, device, pooling=pooling, uncertainty=settings.uncertainty)
