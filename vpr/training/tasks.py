"""Table of the training tasks, and the settings of a run."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import BeforeValidator, SerializeAsAny

from vpr.config import Chooser, Method, MethodSettings, Section
from vpr.training import global_descriptor, loop, magicpoint, matcher, place_descriptor, segmentation, superpoint

TASKS: dict[str, Method[loop.Task]] = {
    "global": Method(global_descriptor.Settings, global_descriptor.build),
    "magicpoint": Method(magicpoint.Settings, magicpoint.build),
    "matcher": Method(matcher.Settings, matcher.build),
    "place": Method(place_descriptor.Settings, place_descriptor.build),
    "segmentation": Method(segmentation.Settings, segmentation.build),
    "superpoint": Method(superpoint.Settings, superpoint.build),
}

TaskSettings = Annotated[SerializeAsAny[MethodSettings], BeforeValidator(Chooser(TASKS, "task", default="magicpoint"))]


class Settings(Section):
    """All settings of a training run."""

    device: str = "auto"
    train: loop.Settings = loop.Settings()
    task: TaskSettings = magicpoint.Settings()


def build(settings: Settings) -> loop.Task:
    """The task, its model's first weights drawn from the run's seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.train.seed)
        return TASKS[settings.task.method].build(settings.task)
