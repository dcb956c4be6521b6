"""Cosines of a query's descriptors with those of its candidates, in batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from vpr.core import LocalFeatures, Matches

# Memory for the similarity matrices of one batch. On a CPU 8 MB stay in its cache: 3 times as fast as 64 MB.
BATCH_BYTES = {"cpu": 8 << 20, "cuda": 4 << 30}


def match_in_batches(
    query: LocalFeatures,
    candidates: Sequence[LocalFeatures],
    device: torch.device,
    match: Callable[[Tensor, Sequence[LocalFeatures]], list[Matches]],
) -> list[Matches]:
    """Returns the matches that ``match`` finds in the cosines (K, N, M) of candidates; no keypoints, no matches.

    The cosines are -inf where a candidate has fewer than M points, and may be written to.
    """
    matches = [Matches.empty()] * len(candidates)
    if not len(query):
        return matches
    descriptors = query.descriptors.to(device)
    for batch in _batches(len(query), candidates, device):
        some = [candidates[i] for i in batch]
        for i, found in zip(batch, match(_similarities(descriptors, some, device), some), strict=True):
            matches[i] = found
    return matches


def _batches(points: int, candidates: Sequence[LocalFeatures], device: torch.device) -> Iterator[list[int]]:
    """Candidates that have points, in batches whose similarity matrices with this many ``points`` fit the budget."""
    most = BATCH_BYTES.get(device.type, BATCH_BYTES["cpu"]) // 4
    batch: list[int] = []
    width = 0
    for i, candidate in enumerate(candidates):
        if not len(candidate):
            continue
        width = max(width, len(candidate))
        if batch and (len(batch) + 1) * points * width > most:
            yield batch
            batch, width = [], len(candidate)
        batch.append(i)
    if batch:
        yield batch


def _similarities(query: Tensor, candidates: Sequence[LocalFeatures], device: torch.device) -> Tensor:
    padded = pad_sequence([each.descriptors for each in candidates], batch_first=True).to(device, non_blocking=True)
    similarity = torch.matmul(query, padded.transpose(1, 2))
    if all(len(each) == padded.shape[1] for each in candidates):
        return similarity
    counts = torch.tensor([len(each) for each in candidates]).to(device, non_blocking=True)
    valid = torch.arange(padded.shape[1], device=device) < counts[:, None]
    return similarity.masked_fill_(~valid[:, None, :], -torch.inf)


def nearest_along(similarity: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """Index of the largest similarity along ``dim``, and nearest over second nearest distance; 0 without a second."""
    index = _argmax(similarity, dim)
    place = index.unsqueeze(dim)
    best = similarity.gather(dim, place).squeeze(dim)
    if similarity.shape[dim] == 1:
        return index, torch.zeros_like(best)
    # Twice a maximum is four times as fast as topk(2) on a CPU. The first place is blanked out and then restored.
    similarity.scatter_(dim, place, -torch.inf)
    second = similarity.amax(dim)
    similarity.scatter_(dim, place, best.unsqueeze(dim))
    return index, _ratio(best, second)


def mutual_nearest(similarity: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Index of the nearest of M for each of N points, whether both are nearest to each other, and the larger ratio.

    Each is (K, N) of (K, N, M), which is overwritten. The ratios, nearest over second nearest distance in both
    directions, are infinite where the two are not mutual. Of equally near points one is taken.
    On a CPU 6 times as fast as looking for the nearest of each of the M points too, whose index nobody needs.
    """
    forward = _argmax(similarity, 2)
    place = forward[..., None]
    best = similarity.gather(2, place)[..., 0]
    rows = torch.arange(similarity.shape[1], device=similarity.device).expand_as(forward)
    mutual = best == similarity.amax(1).gather(1, forward)
    none = torch.full((len(similarity), similarity.shape[2]), len(rows[0]), device=similarity.device)
    first = none.scatter_reduce_(1, forward, rows.where(mutual, len(rows[0])), "amin")
    mutual &= first.gather(1, forward) == rows
    # Blanked out: the nearest of the mutual ones alone, whose columns then show their second; then all.
    similarity.scatter_(2, place, torch.where(mutual, -torch.inf, best)[..., None])
    backward = _ratio(best, similarity.amax(1).gather(1, forward))
    similarity.scatter_(2, place, -torch.inf)
    ratio = torch.maximum(_ratio(best, similarity.amax(2)), backward)
    return forward, mutual, ratio.where(mutual, torch.inf)


def _argmax(similarity: Tensor, dim: int) -> Tensor:
    """The index of the largest similarity; along the last dimension numpy finds it 6 times as fast on a CPU."""
    if similarity.device.type == "cpu" and dim == similarity.ndim - 1:
        return torch.from_numpy(similarity.detach().numpy().argmax(dim))
    return similarity.argmax(dim)


def _ratio(nearest: Tensor, second: Tensor) -> Tensor:
    return torch.where(second.isneginf(), 0.0, _distance(nearest) / _distance(second))


def _distance(similarity: Tensor) -> Tensor:
    """Euclidean distance of unit vectors, never below 0.003: nearer ones differ only by the rounding of float32."""
    return ((2 - 2 * similarity).clamp_min(0) + 1e-5).sqrt()
