"""The training loop: resumable at any moment, seeded, logged, validated, with the best weights kept.

Data are a pure function of seed, process and step, so that a resumed run sees what it would have seen.
"""

from __future__ import annotations

import io
import logging
import math
from collections.abc import Callable, Generator
from contextlib import closing
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Literal, Protocol

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel
from tqdm import tqdm

from vpr.config import Section
from vpr.images import in_order
from vpr.runtime.files import write_atomically
from vpr.runtime.precision import Precision
from vpr.training import distributed
from vpr.training.gradient_steps import GradientSteps, TrainingError
from vpr.training.journal import Journal
from vpr.training.randomness import Randomness, randomness
from vpr.training.tensors import on_tensors

logger = logging.getLogger(__name__)

CHECKPOINT, BEST, MEASURED = "checkpoint.pt", "best.safetensors", "measured.safetensors"


class Settings(Section):
    """Settings of the loop."""

    steps: int = Field(10_000, ge=1)
    batch_size: int = Field(16, ge=1)  # per process
    learning_rate: float = Field(1e-3, gt=0)
    warmup_steps: int = Field(200, ge=0)
    schedule: Literal["cosine", "constant", "exponential"] = "cosine"
    last_rate: float = Field(0.01, ge=0, le=1)  # fraction of the learning rate below which it does not fall
    constant_steps: int = Field(0, ge=0)  # of the exponential schedule, before the learning rate falls
    decay: float = Field(0.999992, gt=0, le=1)  # of the exponential schedule, the factor of each step after these
    weight_decay: float = Field(0.0, ge=0)
    clip: float = Field(1.0, ge=0)  # largest norm of the gradient; 0 for any
    ema: float = Field(0.999, ge=0, lt=1)  # decay of the averaged weights that are validated and kept; 0 for none
    precision: Precision = "fp32"
    seed: int = 0
    workers: int = Field(2, ge=1)  # threads that prepare batches
    log_every: int = Field(20, ge=1)
    validate_every: int = Field(500, ge=1)
    checkpoint_every: int = Field(250, ge=1)  # the most steps that a kill loses
    keep_every: int = Field(0, ge=0)  # steps after which weights are kept (weights-STEP.safetensors), to be averaged
    overfit: int = Field(0, ge=0)  # see only this many batches, again and again: a check that the task can be learned


class Task(Protocol):
    """A model, its batches and its loss."""

    model: nn.Module

    def batch(self, size: int, random: Randomness) -> Any:
        """Tensors on the CPU, single or in tuples; a pure function of its arguments. Runs in threads."""

    def losses(self, model: nn.Module, batch: Any, random: Randomness) -> dict[str, Tensor]:
        """Scalars, of which "loss" is minimised. The batch is on the device of the model."""

    def validate(self, model: nn.Module, device: torch.device) -> dict[str, float]:
        """Figures, of which the first decides which weights are best; higher is better. The model is in eval mode."""

    def export(self, model: nn.Module, path: Path) -> None:
        """Write the weights as the package loads them."""


Benchmarks = Callable[[int, Path], dict[str, float]]  # figures of a step's weights, which a file holds


def train(
    task: Task, settings: Settings, out: Path, device: torch.device, benchmarks: Benchmarks | None = None
) -> Path:
    """Train to the end, from the checkpoint in the folder if there is one; returns the file of the best weights.

    ``benchmarks`` are run after each validation, on the weights that were validated; they do not choose the best.
    Raises TrainingError if the loss stays infinite, or if the checkpoint is of another model.
    """
    out.mkdir(parents=True, exist_ok=True)
    run = Run(task, settings, out, device, benchmarks)
    run.resume()
    run.journal = Journal(out, run.step, enabled=distributed.is_first())
    hidden = None if distributed.is_first() else True
    try:
        progress = tqdm(total=settings.steps, initial=run.step, desc="train", unit="step", disable=hidden)
        with progress, closing(run.batches()) as batches:
            for batch in batches:
                loss = run.advance(batch)
                progress.update()
                if loss is not None:
                    progress.set_postfix(loss=f"{loss:.4g}")
    finally:
        run.journal.close()
    return out / BEST


class Run:
    """One training run: what changes from step to step, and where it is kept."""

    journal: Journal

    def __init__(
        self, task: Task, settings: Settings, out: Path, device: torch.device, benchmarks: Benchmarks | None = None
    ) -> None:
        self.task = task
        self.benchmarks = benchmarks
        self.settings = settings
        self.out = out
        self.device = device
        # Convolutions in bf16 are 2.5 times as fast with the channels last, on a CPU that has it.
        self.model = task.model.to(device).to(memory_format=torch.channels_last)
        parallel: nn.Module = self.model
        if distributed.world_size() > 1:
            parallel = DistributedDataParallel(self.model, [device.index] if device.type == "cuda" else None)
        self.average = AveragedModel(self.model, avg_fn=self._blend, use_buffers=True)
        optimizer = torch.optim.AdamW(
            _parameter_groups(task), settings.learning_rate, weight_decay=settings.weight_decay
        )
        self.updates = GradientSteps(parallel, optimizer, device, settings.precision, settings.clip)
        self.step = 0
        self.best = -math.inf

    def batches(self) -> Generator[Any, None, None]:
        """The batches of the steps that are left, prepared in threads ahead of the device."""

        def prepare(step: int) -> Any:
            return self.task.batch(self.settings.batch_size, self._random(step))

        steps = range(self.step, self.settings.steps)
        with closing(in_order(prepare, steps, self.settings.workers, ahead=4)) as prepared:
            for _, batch in prepared:
                yield on_tensors(batch, lambda each: each.to(self.device, non_blocking=True))

    def advance(self, batch: Any) -> float | None:
        """One step, with what is due after it; the loss where it was logged."""
        settings, logged = self.settings, None
        rate = self._rate()
        self.updates.set_rate(rate)
        random = self._random(self.step, 1)
        losses = self.updates.update(lambda model: self.task.losses(model, batch, random))
        if losses is not None:
            self.average.update_parameters(self.model)
        self.step += 1
        last = self.step == settings.steps
        if losses is not None and (last or self.step % settings.log_every == 0):
            values = {name: round(float(value), 6) for name, value in losses.items()}
            self.journal.add("train", self.step, {"learning_rate": round(rate, 9), **values})
            logged = values["loss"]
        if settings.keep_every and self.step % settings.keep_every == 0 and distributed.is_first():
            self.task.export(self.model, self.out / f"weights-{self.step}.safetensors")
        if last or self.step % settings.validate_every == 0:
            self._validate()
        if last or self.step % settings.checkpoint_every == 0:
            self._save()
        return logged

    def resume(self) -> None:
        """Continue from the checkpoint, if there is one."""
        path = self.out / CHECKPOINT
        if not path.exists():
            return
        try:
            saved = torch.load(path, map_location=self.device, weights_only=True)
            self.model.load_state_dict(saved["model"])
            self.average.load_state_dict(saved["average"])
            self.updates.load_state_dict(saved)
            self.step, self.best = saved["step"], saved["best"]
        except (RuntimeError, KeyError, ValueError, OSError, EOFError, UnpicklingError) as error:
            raise TrainingError(f"{path}: not a checkpoint of this run: {error}; train into another folder") from None
        logger.info("continuing at step %d of %d", self.step, self.settings.steps)

    def _blend(self, average: Tensor, current: Tensor, updates: Tensor | int) -> Tensor:
        """Exponential average that forgets its beginning: the decay grows to its value over the first updates."""
        decay = min(self.settings.ema, (1 + int(updates)) / (10 + int(updates)))
        return average + (current - average) * (1 - decay) if average.is_floating_point() else current

    def _rate(self) -> float:
        settings = self.settings
        rate = settings.learning_rate * min(1.0, (self.step + 1) / max(1, settings.warmup_steps))
        if settings.schedule == "cosine":
            falls = 0.5 + 0.5 * math.cos(math.pi * min(1.0, self.step / settings.steps))
            rate *= settings.last_rate + (1 - settings.last_rate) * falls
        elif settings.schedule == "exponential":
            rate *= max(settings.last_rate, settings.decay ** max(0, self.step - settings.constant_steps))
        return rate

    def _validate(self) -> None:
        """Measure the averaged weights, and keep them if they are the best so far."""
        if not distributed.is_first():
            distributed.wait_for_all()
            return
        model = self.average.module
        model.eval()
        draw = getattr(self.task, "pictures", None)  # a task may have some
        with torch.inference_mode():
            values = self.task.validate(model, self.device)
            if draw is not None:
                self.journal.show(self.step, lambda: draw(model, self.device))
        self.journal.add("validation", self.step, {name: round(value, 6) for name, value in values.items()})
        logger.info("step %d: %s", self.step, ", ".join(f"{name} {value:.4g}" for name, value in values.items()))
        score = next(iter(values.values()))
        if score > self.best or not (self.out / BEST).exists():
            self.best = score
            self.task.export(model, self.out / BEST)
        if self.benchmarks is not None:
            self._benchmark(self.benchmarks, model)
        distributed.wait_for_all()

    def _benchmark(self, benchmarks: Benchmarks, model: nn.Module) -> None:
        path = self.out / MEASURED
        self.task.export(model, path)
        figures = benchmarks(self.step, path)
        path.unlink()
        self.journal.add("benchmark", self.step, {name: round(value, 6) for name, value in figures.items()})
        logger.info("step %d: %s", self.step, ", ".join(f"{name} {value:.4g}" for name, value in figures.items()))

    def _save(self) -> None:
        if not distributed.is_first():
            return
        self.journal.flush()
        content = io.BytesIO()
        torch.save(
            {
                "step": self.step,
                "best": self.best,
                "model": self.model.state_dict(),
                "average": self.average.state_dict(),
                **self.updates.state_dict(),
            },
            content,
        )
        write_atomically(self.out / CHECKPOINT, content.getvalue())

    def _random(self, step: int, use: int = 0) -> Randomness:
        """Random numbers of a step; with ``overfit`` the same few again and again."""
        overfit = self.settings.overfit
        return randomness(self.settings.seed, distributed.rank(), step % overfit if overfit else step, use)


def _parameter_groups(task: Task) -> list[dict[str, Any]]:
    """Returns the trained parameters; a task may give parts a "rate", a fraction of the loop's learning rate."""
    own = getattr(task, "parameter_groups", None)
    if own is not None:
        groups: list[dict[str, Any]] = own()
        return groups
    return [{"params": [parameter for parameter in task.model.parameters() if parameter.requires_grad]}]
