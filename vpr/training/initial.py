"""First weights."""

from __future__ import annotations

import torch
from torch import nn

from vpr.matchers.superglue_network import Layer, SuperGlueNetwork

SHARPNESS = 14.0  # score of equal descriptors
# Cosine from which two points are rather partners than not; low, since that each has one partner at most sorts them
BELIEVED = 0.2


def keep_variance(network: nn.Module) -> None:
    """First weights of He et al., ICCV 2015: with torch's own, eight layers on every picture looks like any other."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)


@torch.no_grad()
def start_as_nearest(network: SuperGlueNetwork) -> None:
    """First weights with which SuperGlue is optimal transport on cosines, and its layers learn what to add to that."""
    graph = [layer.mlp for layer in network.gnn.layers if isinstance(layer, Layer)]
    for perceptron in (network.kenc.encoder, *graph):
        for parameter in perceptron[-1].parameters():
            nn.init.zeros_(parameter)
    for parameter in network.final_proj.parameters():
        nn.init.zeros_(parameter)
    network.final_proj.weight += (SHARPNESS * network.dim**0.5) ** 0.5 * torch.eye(network.dim)[..., None]
    network.bin_score.fill_(SHARPNESS * BELIEVED)
