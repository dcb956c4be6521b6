"""First weights."""

from __future__ import annotations

from torch import nn


def keep_variance(network: nn.Module) -> None:
    """First weights of He et al., ICCV 2015: with torch's own, eight layers on every picture looks like any other."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
