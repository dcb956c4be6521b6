"""Updates of a model by the gradient of its loss, the same for every training."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from vpr.core import VprError
from vpr.runtime.precision import InPrecision, Precision, arithmetic

MAX_NONFINITE_STEPS = 20  # in a row


class TrainingError(VprError):
    """A run that cannot go on."""


class GradientSteps:
    """A model with its optimizer; ``clip`` is the largest norm of the gradient, 0 for any.

    ``model`` computes in ``precision`` while its loss is taken. fp16 losses are scaled.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        device: torch.device,
        precision: Precision = "fp32",
        clip: float = 0.0,
    ) -> None:
        self.model = InPrecision(model, precision, device)
        self.optimizer = optimizer
        self.device = device
        self.precision = precision
        self.clip = clip
        self.scaler = torch.amp.GradScaler(device.type, enabled=precision == "fp16")
        self.nonfinite = 0  # steps in a row whose loss or gradient was not finite

    def update(self, losses_of: Callable[[nn.Module], dict[str, Tensor]]) -> dict[str, Tensor] | None:
        """One step down the gradient of "loss"; all losses, or None if it is not finite and nothing changed.

        Raises TrainingError after MAX_NONFINITE_STEPS of these in a row.
        """
        self.model.train()
        with arithmetic(self.precision, self.device):
            losses = losses_of(self.model)
        self.optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(self.scaler.scale(losses["loss"]))
        self.scaler.unscale_(self.optimizer)
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.clip or math.inf)
        finite = math.isfinite(float(losses["loss"].detach() + norm))
        if finite:
            self.scaler.step(self.optimizer)
        self.scaler.update()
        self.nonfinite = 0 if finite else self.nonfinite + 1
        if self.nonfinite == MAX_NONFINITE_STEPS:
            raise TrainingError(f"no finite loss for {self.nonfinite} steps; lower the learning rate")
        return {name: value.detach() for name, value in losses.items()} if finite else None

    def set_rate(self, rate: float) -> None:
        """The learning rate of every part; one with a "rate" of its own has that fraction of it."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group.get("rate", 1.0)

    def state_dict(self) -> dict[str, Any]:
        return {"optimizer": self.optimizer.state_dict(), "scaler": self.scaler.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Raises KeyError or ValueError if the state is of another optimizer or model."""
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
