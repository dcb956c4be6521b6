"""A finished run: its data set, the ranking of each stage, timings and facts; the report is made from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from vpr.core import Dataset, Ranking
from vpr.evaluation.bootstrap import SAMPLES
from vpr.evaluation.comparison import Summary, summarise
from vpr.evaluation.statistics import CalibrationTrial, Statistics, measure
from vpr.runtime.timing import Timing


@dataclass(frozen=True, eq=False)
class RunResult:
    """Rankings of a finished run, and the facts of how it was run."""

    dataset: Dataset
    stages: Mapping[str, Ranking]  # by label, in order: the shortlist first, the predictions last
    recall_at: tuple[int, ...]
    settings_toml: str
    facts: Mapping[str, str]  # command, versions, machine, date
    timings: Sequence[Timing] = ()
    failures: int = 24  # shown with images
    match_images: int = 0  # queries whose first candidate is drawn in a file of its own
    match_image_format: str = "jpg"
    bytes_per_image: Mapping[str, float] = field(default_factory=dict)  # on disk, by kind of feature
    calibration: Sequence[CalibrationTrial] = ()  # fitted on another run
    samples: int = SAMPLES  # bootstrap samples behind the intervals; 0 for none
    seed: int = 0  # of the bootstrap
    unreadable: Mapping[str, Mapping[int, str]] = field(default_factory=dict)  # reason by row, by role

    rotations: tuple[int, ...] | None = None  # degrees by which each query was turned; None where none was

    @cached_property
    def summary(self) -> Summary | None:
        """Recall and what re-ranking changed; None without ground truth."""
        return (
            None
            if self.dataset.positives is None
            else summarise(self.dataset, self.stages, self.recall_at, samples=self.samples, seed=self.seed)
        )

    @cached_property
    def statistics(self) -> Statistics | None:
        """Returns the comparison of the stages; None without ground truth."""
        return (
            None
            if self.dataset.positives is None
            else measure(self.dataset, self.stages, self.recall_at, samples=self.samples, seed=self.seed)
        )
