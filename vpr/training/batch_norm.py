"""BatchNorm while a network is trained, and none in the weights that it leaves.

As in pytorch-superpoint's SuperPointNet_gauss2, a BatchNorm follows each convolution, before the ReLU. There it folds
into the convolution exactly, zero padding included, so that the published layout without BatchNorm holds the result.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

M = TypeVar("M", bound=nn.Module)


class NormalisedConv(nn.Conv2d):
    """A convolution with a BatchNorm after it."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__(**_geometry(conv))
        self.load_state_dict(conv.state_dict())
        self.norm = nn.BatchNorm2d(conv.out_channels)
        self.measuring = False

    def forward(self, x: Tensor) -> Tensor:
        x = super().forward(x)
        if self.measuring:
            variance, mean = torch.var_mean(x, (0, 2, 3), correction=0)
            neutral = {"running_mean": mean, "running_var": variance, "bias": mean}
            neutral["weight"] = (variance + self.norm.eps).sqrt()
            self.norm.load_state_dict(self.norm.state_dict() | neutral)
            return x
        normalised: Tensor = self.norm(x)
        return normalised

    def folded(self) -> nn.Conv2d:
        """The same function, in eval mode, as one convolution."""
        conv, norm = nn.Conv2d(**_geometry(self)), self.norm
        assert norm.running_mean is not None and norm.running_var is not None
        conv.weight, conv.bias = fuse_conv_bn_weights(
            self.weight, self.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
        )
        return conv


def with_batch_norm(network: nn.Module) -> None:
    """Give each convolution of more than one pixel a BatchNorm; the last ones of SuperPoint's heads have one pixel."""
    _replace(network, nn.Conv2d, lambda conv: NormalisedConv(conv) if max(conv.kernel_size) > 1 else conv)


@torch.no_grad()
def measure(network: nn.Module, images: Tensor) -> None:
    """Set the BatchNorms so that the network computes what it would without them, on images like these."""
    layers = [module for module in network.modules() if isinstance(module, NormalisedConv)]
    for layer in layers:
        layer.measuring = True
    network(images)
    for layer in layers:
        layer.measuring = False


def folded(network: M) -> M:
    """A copy of the network on the CPU, its BatchNorms folded into the convolutions that they were given to."""
    network = copy.deepcopy(network).cpu()
    _replace(network, NormalisedConv, NormalisedConv.folded)
    return network


def _replace(network: nn.Module, kind: type[M], make: Callable[[M], nn.Module]) -> None:
    for name, module in network.named_children():
        if isinstance(module, kind):
            setattr(network, name, make(module))
        else:
            _replace(module, kind, make)


def _geometry(conv: nn.Conv2d) -> dict[str, Any]:
    names = ("in_channels", "out_channels", "kernel_size", "stride", "padding")
    return {name: getattr(conv, name) for name in names}
