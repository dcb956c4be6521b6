"""First weights."""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import nn
from torch.nn import functional

from vpr.matchers.gluestick_network import GlueStickNetwork, LineLayer, Propagation
from vpr.matchers.imp_network import ImpNetwork, OwnLayer, SharingLayer
from vpr.matchers.lightglue_network import LightGlueNetwork
from vpr.matchers.superglue_network import Layer, PointLinear, SuperGlueNetwork

SHARPNESS = 14.0  # score of equal descriptors
# Cosine from which two points are rather partners than not; low, since that each has one partner at most sorts them
BELIEVED = 0.2
FINEST = 32.0  # radians by which the fastest angle of LightGlue's places turns over half an image


def keep_variance(network: nn.Module) -> None:
    """First weights of He et al., ICCV 2015: with torch's own, eight layers on every image looks like any other."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)


@torch.no_grad()
def start_as_nearest(network: SuperGlueNetwork | GlueStickNetwork | LightGlueNetwork | ImpNetwork) -> None:
    """First weights with which a network matches only by cosines, and its layers learn what to add to that.

    SuperGlue and IMP are optimal transport then, GlueStick and LightGlue a softmax over both sides, in which a point of
    LightGlue rather has a partner than not; its points differ by their places at once, over lengths from the whole
    image's down.
    """
    if isinstance(network, SuperGlueNetwork):
        last: list[nn.Module] = [
            network.kenc.encoder[-1],
            *(cast(Layer, layer).mlp[-1] for layer in network.gnn.layers),
        ]
        projections: list[nn.Linear | PointLinear] = [network.final_proj]
        network.bin_score.fill_(SHARPNESS * BELIEVED)
    elif isinstance(network, GlueStickNetwork):
        of_points = [cast(Propagation, layer).update.mlp[-1] for layer in network.gnn.layers]
        along_lines = [cast(LineLayer, layer).mlp[-1] for layer in network.gnn.line_layers]
        last = [network.kenc.encoder[-1], *of_points, *along_lines]
        projections = [network.final_proj, network.final_line_proj]
        network.bin_score.fill_(SHARPNESS * BELIEVED)
        network.line_bin_score.fill_(SHARPNESS * BELIEVED)
    elif isinstance(network, ImpNetwork):
        of_layers = [cast(OwnLayer | SharingLayer, layer).mlp[-1] for layer in network.gnn.layers]
        last = [network.kenc.encoder[-1], *of_layers]
        projections = [cast(PointLinear, head) for head in network.final_proj]
        network.bin_score.fill_(SHARPNESS * BELIEVED)
    else:
        layers = [layer for layer, _, _ in network.parts()]
        last = [block.ffn[-1] for layer in layers for block in (layer.self_attn, layer.cross_attn)]
        assignments = [assign for _, assign, _ in network.parts()]
        projections = [assign.final_proj for assign in assignments]
        for assign in assignments:
            nn.init.zeros_(assign.matchability.weight)
            nn.init.ones_(assign.matchability.bias)
        if isinstance(network.input_proj, nn.Linear):
            nn.init.orthogonal_(network.input_proj.weight)
            nn.init.zeros_(network.input_proj.bias)
        spread = torch.logspace(0, math.log10(FINEST), len(network.posenc.Wr.weight))[:, None]
        nn.init.zeros_(network.posenc.Wr.weight)  # at first size and orientation, if they are read, change nothing
        network.posenc.Wr.weight[:, :2] = spread * functional.normalize(torch.randn(len(spread), 2), dim=1)
    for parameter in (parameter for linear in last for parameter in linear.parameters()):
        nn.init.zeros_(parameter)
    for projection in projections:
        identity = (SHARPNESS * network.dim**0.5) ** 0.5 * torch.eye(network.dim)
        projection.weight.copy_(identity.view_as(projection.weight))
        assert projection.bias is not None
        nn.init.zeros_(projection.bias)
