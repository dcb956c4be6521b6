"""SuperPoint, SuperGlue and IMP as the papers write them down, one image and one pair at a time.

DeTone et al., CVPR workshops 2018, arXiv:1712.07629; Sarlin et al., CVPR 2020, arXiv:1911.11763; Xue et al., CVPR 2023,
arXiv:2304.14837. These are what
`vpr` is compared with, for speed and for results. They read the same published weights, a dict of tensors.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

Weights = Mapping[str, Tensor]


class Points(NamedTuple):
    """What SuperPoint finds in one image."""

    keypoints: Tensor  # (N, 2) x, y
    scores: Tensor  # (N,)
    descriptors: Tensor  # (D, N)


def superpoint(
    weights: Weights, image: Tensor, *, threshold: float = 0.005, radius: int = 4, border: int = 4, most: int = 1024
) -> Points:
    """Points of a grey image (1, 1, H, W) with values in [0, 1]; weights are named conv1a.weight and so on."""
    logits, coarse = superpoint_maps(weights, image)
    scores = score_map(logits)[0]
    scores = suppress(scores, radius)
    y, x = torch.nonzero(scores > threshold, as_tuple=True)
    height, width = scores.shape
    inside = (y >= border) & (y < height - border) & (x >= border) & (x < width - border)
    y, x = y[inside], x[inside]
    found = scores[y, x]
    if len(found) > most:
        found, best = found.topk(most)
        y, x = y[best], x[best]
    points = torch.stack([x, y], dim=1).float()
    return Points(points, found, sample(points, functional.normalize(coarse, dim=1)))


def superpoint_maps(weights: Weights, image: Tensor) -> tuple[Tensor, Tensor]:
    """Logits (1, 65, h, w) and coarse descriptors (1, D, h, w), one column per cell of 8 x 8 pixels."""
    x = image
    for block in "1234":
        for layer in "ab":
            x = functional.relu(_conv(weights, f"conv{block}{layer}", x))
        if block != "4":
            x = functional.max_pool2d(x, 2, 2)
    logits = _conv(weights, "convPb", functional.relu(_conv(weights, "convPa", x)))
    return logits, _conv(weights, "convDb", functional.relu(_conv(weights, "convDa", x)))


def _conv(weights: Weights, name: str, x: Tensor) -> Tensor:
    weight = weights[f"{name}.weight"]
    return functional.conv2d(x, weight, weights[f"{name}.bias"], padding=weight.shape[-1] // 2)


def score_map(logits: Tensor) -> Tensor:
    """(B, 8 h, 8 w): the softmax over the 64 pixels of a cell and "no point here"."""
    batch, _, height, width = logits.shape
    cells = torch.softmax(logits, dim=1)[:, :-1].permute(0, 2, 3, 1).reshape(batch, height, width, 8, 8)
    return cells.permute(0, 1, 3, 2, 4).reshape(batch, height * 8, width * 8)


def suppress(scores: Tensor, radius: int) -> Tensor:
    """Only local maxima of (H, W) scores; twice, maxima outside the reach of the ones found so far are added."""

    def largest(x: Tensor) -> Tensor:
        return functional.max_pool2d(x[None], 2 * radius + 1, stride=1, padding=radius)[0]

    found = scores == largest(scores)
    for _ in range(2):
        covered = largest(found.float()) > 0
        rest = torch.where(covered, torch.zeros_like(scores), scores)
        found = found | ((rest == largest(rest)) & ~covered)
    return torch.where(found, scores, torch.zeros_like(scores))


def sample(points: Tensor, coarse: Tensor) -> Tensor:
    """Descriptors (D, N) at points (N, 2), as the published code interpolates the (1, D, h, w) map."""
    cells = torch.tensor([coarse.shape[3], coarse.shape[2]])
    grid = (points - 3.5) / (8 * cells - 4.5) * 2 - 1
    sampled = functional.grid_sample(coarse, grid[None, None], mode="bilinear", align_corners=True)
    return functional.normalize(sampled[0, :, 0], dim=0)


def superglue(
    weights: Weights,
    first: Points,
    second: Points,
    sizes: tuple[tuple[int, int], tuple[int, int]],
    iterations: int = 20,
) -> Tensor:
    """Log assignment (M + 1, N + 1) of two images of sizes (width, height)."""
    x0 = first.descriptors + _encode(weights, first, sizes[0])
    x1 = second.descriptors + _encode(weights, second, sizes[1])
    layers = sum(key.endswith("merge.weight") for key in weights)
    for i in range(layers):
        name = f"gnn.layers.{i}"
        source0, source1 = (x0, x1) if i % 2 == 0 else (x1, x0)
        x0, x1 = x0 + _message(weights, name, x0, source0), x1 + _message(weights, name, x1, source1)
    m0, m1 = _linear(weights, "final_proj", x0), _linear(weights, "final_proj", x1)
    similarity = torch.einsum("dn,dm->nm", m0, m1) / math.sqrt(len(m0))
    return log_sinkhorn(similarity, weights["bin_score"], iterations)


def imp(
    weights: Weights,
    first: Points,
    second: Points,
    sizes: tuple[tuple[int, int], tuple[int, int]],
    sinkhorn_iterations: int = 20,
) -> Tensor:
    """IMP's assignment (M + 1, N + 1), probabilities, after all iterations; images of sizes (width, height)."""
    x0 = first.descriptors + _encode(weights, first, sizes[0])
    x1 = second.descriptors + _encode(weights, second, sizes[1])
    last = sum(key.startswith("final_proj.") and key.endswith(".weight") for key in weights) - 1
    attention: dict[tuple[int, int], Tensor] = {}  # of each kind, self and cross, and of each image
    for layer in range(2 * last + 2):
        name, kind = f"gnn.layers.{layer}", layer % 2
        pairs = ((x0, x1), (x1, x0)) if kind else ((x0, x0), (x1, x1))
        added = []
        for image, (x, source) in enumerate(pairs):
            shared = f"{name}.proj.weight" in weights
            if not shared:
                q, k = (
                    _linear(weights, f"{name}.attn.proj.{i}", each).view(-1, 4, each.shape[1])
                    for i, each in enumerate((x, source))
                )
                scores = torch.einsum("dhn,dhm->hnm", q, k) / math.sqrt(len(q))
                attention[kind, image] = torch.softmax(scores, dim=-1)
            v = _linear(weights, f"{name}.proj" if shared else f"{name}.attn.proj.2", source).view(
                -1, 4, source.shape[1]
            )
            message = torch.einsum("hnm,dhm->dhn", attention[kind, image], v).reshape(x.shape)
            merged = _linear(weights, f"{name}.merge" if shared else f"{name}.attn.merge", message)
            added.append(_perceptron(weights, f"{name}.mlp", torch.cat([x, merged])))
        x0, x1 = x0 + added[0], x1 + added[1]
    m0, m1 = _linear(weights, f"final_proj.{last}", x0), _linear(weights, f"final_proj.{last}", x1)
    similarity = torch.einsum("dn,dm->nm", m0, m1) / math.sqrt(len(m0))
    return _sinkhorn_on_probabilities(similarity, weights["bin_score"], sinkhorn_iterations)


def _sinkhorn_on_probabilities(similarity: Tensor, bin_score: Tensor, iterations: int) -> Tensor:
    m, n = similarity.shape
    scores = functional.pad(similarity, (0, 1, 0, 1))
    scores[-1, :] = bin_score
    scores[:, -1] = bin_score
    p = torch.softmax(scores, dim=-1)
    r, c = torch.ones(m + 1, device=p.device), torch.ones(n + 1, device=p.device)
    r[-1], c[-1] = m + 1, n + 1
    u, v = torch.ones_like(r), torch.ones_like(c)
    for _ in range(iterations):
        u = r / ((p * v[None, :]).sum(1) + 1e-8)
        v = c / ((p * u[:, None]).sum(0) + 1e-8)
    return p * u[:, None] * v[None, :]


def matches(log_assignment: Tensor, threshold: float = 0.2) -> tuple[Tensor, Tensor]:
    """For each point of the first image its partner or -1, and its probability or 0."""
    scores = log_assignment[:-1, :-1]
    forward, backward = scores.argmax(1), scores.argmax(0)
    probability = scores.amax(1).exp()
    kept = (backward[forward] == torch.arange(len(forward))) & (probability > threshold)
    return torch.where(kept, forward, -1), torch.where(kept, probability, 0)


def log_sinkhorn(similarity: Tensor, bin_score: Tensor, iterations: int) -> Tensor:
    """Sinkhorn's iterations in the log domain."""
    m, n = similarity.shape
    scores = functional.pad(similarity, (0, 1, 0, 1))
    scores[-1, :] = bin_score
    scores[:, -1] = bin_score
    row_mass, column_mass = torch.zeros(m + 1), torch.zeros(n + 1)
    row_mass[-1], column_mass[-1] = math.log(n), math.log(m)
    u, v = torch.zeros(m + 1), torch.zeros(n + 1)
    for _ in range(iterations):
        u = row_mass - torch.logsumexp(scores + v[None, :], dim=1)
        v = column_mass - torch.logsumexp(scores + u[:, None], dim=0)
    return scores + u[:, None] + v[None, :]


def _encode(weights: Weights, points: Points, size: tuple[int, int]) -> Tensor:
    """(D, N) from positions and scores."""
    centred = (points.keypoints - torch.tensor(size) / 2) / (0.7 * max(size))
    return _perceptron(weights, "kenc.encoder", torch.cat([centred.T, points.scores[None]]))


def _message(weights: Weights, name: str, x: Tensor, source: Tensor) -> Tensor:
    """What a layer adds to the descriptors x (D, N) after a look at the source (D, M)."""
    q, k, v = (
        _linear(weights, f"{name}.attn.proj.{i}", each).view(-1, 4, each.shape[1])
        for i, each in enumerate((x, source, source))
    )
    attention = torch.softmax(torch.einsum("dhn,dhm->hnm", q, k) / math.sqrt(len(q)), dim=-1)
    message = torch.einsum("hnm,dhm->dhn", attention, v).reshape(x.shape)
    return _perceptron(weights, f"{name}.mlp", torch.cat([x, _linear(weights, f"{name}.attn.merge", message)]))


def _perceptron(weights: Weights, name: str, x: Tensor) -> Tensor:
    last = max(int(key.split(".")[-2]) for key in weights if key.startswith(f"{name}."))
    for i in range(0, last, 3):
        x = functional.relu(_normalise(weights, f"{name}.{i + 1}", _linear(weights, f"{name}.{i}", x)))
    return _linear(weights, f"{name}.{last}", x)


def _linear(weights: Weights, name: str, x: Tensor) -> Tensor:
    return functional.conv1d(x[None], weights[f"{name}.weight"], weights[f"{name}.bias"])[0]


def _normalise(weights: Weights, name: str, x: Tensor) -> Tensor:
    if f"{name}.running_mean" not in weights:  # over the points of this image
        return functional.instance_norm(x[None], eps=1e-3)[0]
    mean, variance = weights[f"{name}.running_mean"], weights[f"{name}.running_var"]
    return functional.batch_norm(x[None], mean, variance, weights[f"{name}.weight"], weights[f"{name}.bias"])[0]
