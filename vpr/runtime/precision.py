"""Number formats of a network's arithmetic, and which of them a device can do."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import nn

logger = logging.getLogger(__name__)

Precision = Literal["fp32", "tf32", "bf16", "fp16"]

HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}


def dtype_of(precision: Precision, device: torch.device) -> torch.dtype:
    """The type to compute in: float32 where the device has no instructions for half precision.

    A CPU without them emulates it: a matrix product in bf16 then takes 200 times as long as in fp32.
    """
    dtype = HALF.get(precision, torch.float32)
    if device.type != "cpu" or dtype is torch.float32:
        return dtype
    if dtype is torch.bfloat16 and torch.cpu._is_avx512_bf16_supported():
        return dtype
    logger.warning("this CPU has no %s arithmetic: computing in fp32", precision)
    return torch.float32


@contextmanager
def arithmetic(precision: Precision, device: torch.device) -> Iterator[None]:
    """Let CUDA round the inputs of float32 products to 10 bits for "tf32", and forbid it otherwise.

    These switches are torch's and hold for the process; torch itself allows it in convolutions.
    """
    if device.type != "cuda":
        yield
        return
    wanted = precision == "tf32"
    switches: tuple[Any, ...] = (torch.backends.cuda.matmul, torch.backends.cudnn)
    changed = [switch for switch in switches if switch.allow_tf32 != wanted]
    for switch in changed:
        switch.allow_tf32 = wanted
    try:
        yield
    finally:
        for switch in changed:
            switch.allow_tf32 = not wanted


class InPrecision(nn.Module):
    """A network that computes in one number format; what is computed around it, coordinates above all, stays fp32."""

    def __init__(self, model: nn.Module, precision: Precision, device: torch.device) -> None:
        super().__init__()
        self.model = model
        self.device_type = device.type
        self.dtype = dtype_of(precision, device)

    def forward(self, *inputs: Any) -> Any:
        half = self.dtype is not torch.float32
        with torch.autocast(self.device_type, dtype=self.dtype if half else None, enabled=half):
            return self.model(*inputs)
