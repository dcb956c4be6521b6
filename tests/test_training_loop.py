"""The loop: resumable, seeded, logged; a small regression stands for what is learnt."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from vpr.runtime.precision import dtype_of
from vpr.training import loop
from vpr.training.export import save_weights
from vpr.training.loop import BEST, CHECKPOINT, Run, TrainingError, train
from vpr.training.randomness import Randomness, generator_on, randomness

CPU = torch.device("cpu")


class Line:
    """Learn y = 3 x - 1 from noisy samples."""

    def __init__(self, break_from: int | None = None) -> None:
        torch.manual_seed(0)
        self.model: nn.Module = nn.Linear(1, 1)
        self.break_from = break_from
        self.seen: list[float] = []

    def batch(self, size: int, random: Randomness) -> Tensor:
        return torch.rand(size, 1, generator=random.torch)

    def losses(self, model: nn.Module, batch: Tensor, random: Randomness) -> dict[str, Tensor]:
        self.seen.append(float(batch.sum()))
        noise = 0.1 * torch.randn(batch.shape, generator=random.torch)
        loss = (model(batch) - (3 * batch - 1 + noise)).square().mean()
        if self.break_from is not None and len(self.seen) > self.break_from:
            loss = loss * torch.nan
        return {"loss": loss, "double": 2 * loss}

    def validate(self, model: nn.Module, device: torch.device) -> dict[str, float]:
        x = torch.linspace(0, 1, 11)[:, None]
        return {"score": -float((model(x) - (3 * x - 1)).abs().max())}

    def export(self, model: nn.Module, path: Path) -> None:
        save_weights(path, model)


def settings(**changed: Any) -> loop.Settings:
    return loop.Settings(
        **{
            "steps": 60,
            "batch_size": 8,
            "learning_rate": 0.1,
            "warmup_steps": 5,
            "ema": 0.9,
            "log_every": 10,
            "validate_every": 20,
            "checkpoint_every": 10,
            **changed,
        }
    )


def rows(path: Path) -> list[list[str]]:
    """Lines of a csv without the seconds."""
    lines = [line.split(",") for line in path.read_text().splitlines()]
    return [[step, *values] for step, _, *values in lines]


def test_it_learns_and_keeps_the_best(tmp_path: Path) -> None:
    best = train(Line(), settings(steps=200), tmp_path, CPU)
    weights = load_file(best)
    assert weights["weight"].dtype == torch.float16
    assert float(weights["weight"]) == pytest.approx(3, abs=0.2) and float(weights["bias"]) == pytest.approx(
        -1, abs=0.2
    )
    assert rows(tmp_path / "train.csv")[0] == ["step", "learning_rate", "loss", "double"]
    assert [row[0] for row in rows(tmp_path / "validation.csv")] == ["step", *map(str, range(20, 201, 20))]


@pytest.mark.parametrize("stop", [7, 10, 25, 59])
def test_an_interrupted_run_ends_as_one_that_was_not(tmp_path: Path, stop: int) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train(Line(), settings(), whole, CPU)

    class Stopped(Line):
        def losses(self, *arguments: Any) -> dict[str, Tensor]:
            if len(self.seen) == stop:
                raise KeyboardInterrupt
            return super().losses(*arguments)

    with pytest.raises(KeyboardInterrupt):
        train(Stopped(), settings(), parts, CPU)
    again = Line()
    train(again, settings(), parts, CPU)
    assert len(again.seen) == 60 - stop // 10 * 10
    assert (whole / BEST).read_bytes() == (parts / BEST).read_bytes()
    for name in ("train.csv", "validation.csv"):
        assert rows(whole / name) == rows(parts / name)
    one, other = (torch.load(each / CHECKPOINT, weights_only=True) for each in (whole, parts))
    assert one["step"] == other["step"] == 60
    assert all(torch.equal(one["model"][key], other["model"][key]) for key in one["model"])


def test_a_finished_run_is_not_run_again(tmp_path: Path) -> None:
    train(Line(), settings(), tmp_path, CPU)
    again = Line()
    train(again, settings(), tmp_path, CPU)
    assert again.seen == []


def test_seeds_decide_the_data(tmp_path: Path) -> None:
    runs = {name: Line() for name in ("one", "same", "other")}
    for name, task in runs.items():
        train(task, settings(seed=name == "other"), tmp_path / name, CPU)
    assert runs["one"].seen == runs["same"].seen != runs["other"].seen
    assert len(set(runs["one"].seen)) == 60


def test_overfitting_sees_the_same_batches(tmp_path: Path) -> None:
    task = Line()
    train(task, settings(overfit=2), tmp_path, CPU)
    assert len(set(task.seen)) == 2 and task.seen[0] == task.seen[2] != task.seen[1]


def test_only_the_model_computes_in_half_precision(tmp_path: Path) -> None:
    """A coordinate of 300 pixels in bf16 is off by up to a pixel."""
    if dtype_of("bf16", CPU) is torch.float32:
        pytest.skip("this CPU has no bf16 arithmetic")

    class Watching(Line):
        def losses(self, model: nn.Module, batch: Tensor, random: Randomness) -> dict[str, Tensor]:
            assert (batch.T @ batch).dtype == torch.float32
            assert model(batch).dtype == torch.bfloat16
            return super().losses(model, batch, random)

    train(Watching(), settings(precision="bf16"), tmp_path, CPU)


def test_the_rate_warms_up_and_falls() -> None:
    run = Run(Line(), settings(steps=100, warmup_steps=10, learning_rate=1.0, last_rate=0.1), Path(), CPU)
    rates = []
    for step in (0, 9, 50, 100):
        run.step = step
        rates.append(run._rate())
    assert rates[0] == pytest.approx(0.1, rel=0.01) and rates[1] == pytest.approx(1, rel=0.03)
    assert rates[2] == pytest.approx(0.55) and rates[3] == pytest.approx(0.1)


def test_the_exponential_rate_is_constant_then_falls_to_its_floor() -> None:
    how = {"schedule": "exponential", "constant_steps": 20, "decay": 0.9, "warmup_steps": 0, "last_rate": 0.01}
    run = Run(Line(), settings(steps=100, learning_rate=1.0, **how), Path(), CPU)
    rates = []
    for step in (0, 20, 22, 99):
        run.step = step
        rates.append(run._rate())
    assert rates == pytest.approx([1, 1, 0.81, 0.01])


def test_a_loss_that_stays_infinite_is_told(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"no finite loss for 20 steps; lower the learning rate"):
        train(Line(break_from=30), settings(), tmp_path, CPU)
    saved = torch.load(tmp_path / CHECKPOINT, weights_only=True)
    assert all(value.isfinite().all() for value in saved["model"].values())


def test_a_checkpoint_of_something_else_is_refused(tmp_path: Path) -> None:
    train(Line(), settings(), tmp_path, CPU)
    other = Line()
    other.model = nn.Linear(2, 2)
    with pytest.raises(TrainingError, match=r"not a checkpoint of this run(?s:.)*another folder"):
        train(other, settings(), tmp_path, CPU)
    (tmp_path / CHECKPOINT).write_bytes(b"")
    with pytest.raises(TrainingError, match="not a checkpoint"):
        train(Line(), settings(), tmp_path, CPU)


def test_generators_follow_their_numbers() -> None:
    drawn = {
        numbers: float(torch.rand(1, generator=randomness(*numbers).torch)) for numbers in ((0, 1), (1, 0), (0, 1, 0))
    }
    assert len(set(drawn.values())) == 3
    one, other = randomness(5), randomness(5)
    assert one.numpy.random() == other.numpy.random()
    assert torch.rand(1, generator=generator_on(CPU, one.torch)) == torch.rand(
        1, generator=generator_on(CPU, other.torch)
    )


def command(out: Path, *more: str) -> list[str]:
    tiny = ["task.size=[64, 48]", "task.widths=[8, 8, 8, 8]", "task.head=8", "task.dim=8", "task.pool=40"]
    loop_ = [
        "train.steps=20",
        "train.batch_size=4",
        "train.checkpoint_every=2",
        "train.validate_every=10",
        "device=cpu",
    ]
    sets = [part for each in (*tiny, *loop_, "task.validation_images=8", *more) for part in ("--set", each)]
    return [sys.executable, "-m", "vpr", "train", "--config", "train_magicpoint", "--out", str(out), *sets]


def test_kill_9_loses_one_checkpoint_interval_at_most(tmp_path: Path) -> None:
    fp32 = "train.precision=fp32"
    subprocess.run(command(tmp_path / "whole", fp32), check=True, capture_output=True)
    parts = tmp_path / "parts"
    process = subprocess.Popen(command(parts, fp32), stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    while not (parts / CHECKPOINT).exists():
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert 0 < torch.load(parts / CHECKPOINT, weights_only=True)["step"] <= 20
    subprocess.run(command(parts, fp32), check=True, capture_output=True)
    assert (parts / BEST).read_bytes() == (tmp_path / "whole" / BEST).read_bytes()
    refused = subprocess.run(command(parts, fp32, "task.dim=16"), capture_output=True, text=True, check=False)
    assert refused.returncode != 0 and "has other settings" in refused.stderr
    subprocess.run(command(parts, fp32, "train.steps=22"), check=True, capture_output=True)
    assert torch.load(parts / CHECKPOINT, weights_only=True)["step"] == 22


def test_a_start_that_fails_leaves_no_settings_behind(tmp_path: Path) -> None:
    failed = subprocess.run(
        [sys.executable, "-m", "vpr", "train", "superpoint", "--out", str(tmp_path / "run")],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert failed.returncode == 1 and "photographs" in failed.stderr
    assert not (tmp_path / "run" / "settings.toml").exists()


def test_two_processes_train_one_model(tmp_path: Path) -> None:
    more = ("train.precision=fp32", "train.steps=4")
    done = subprocess.run(
        [*command(tmp_path / "two", *more), "--devices", "2"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "two" / BEST).exists() and "Best weights" in done.stdout + done.stderr
