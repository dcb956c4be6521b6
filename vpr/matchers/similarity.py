"""Cosines of a query's descriptors with those of its candidates, in batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from vpr.core import LocalFeatures, Matches

# Memory for the similarity matrices of one batch. On a CPU 8 MB stay in its cache: 3 times as fast as 64 MB.
BATCH_BYTES = {"cpu": 8 << 20, "cuda": 4 << 30}
TOGETHER = 4  # candidates on a CPU, of which one after another is compared
_LARGEST = 127  # of an int8


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
    for batch, cosines in _in_batches(query, candidates, device):
        for i, found in zip(batch, match(cosines, [candidates[i] for i in batch]), strict=True):
            matches[i] = found
    return matches


def neighbours_in_batches(
    query: LocalFeatures, candidates: Sequence[LocalFeatures], device: torch.device, *, integers: bool = False
) -> Iterator[tuple[list[int], Neighbours]]:
    """Places of candidates that have points, and the nearest of these, some candidates at a time.

    On a CPU each candidate is a product of its own, whose memory is used again: the half of the time of one for all.
    There ``integers`` rounds the descriptors to int8.
    """
    if device.type != "cpu":
        for batch, cosines in _in_batches(query, candidates, device):
            yield batch, mutual_nearest(cosines)
        return
    places = [i for i, candidate in enumerate(candidates) if len(candidate)]
    if not len(query) or not places:
        return
    product = _integer_product(query.descriptors) if integers else _product(query.descriptors)
    for first in range(0, len(places), TOGETHER):
        batch = places[first : first + TOGETHER]
        found = [mutual_nearest(*product(candidates[i].descriptors)) for i in batch]
        yield batch, Neighbours(*(torch.cat(each) for each in zip(*found, strict=True)))


def _in_batches(
    query: LocalFeatures, candidates: Sequence[LocalFeatures], device: torch.device
) -> Iterator[tuple[list[int], Tensor]]:
    if not len(query):
        return
    descriptors = query.descriptors.to(device)
    for batch in _batches(len(query), candidates, device):
        yield batch, _similarities(descriptors, [candidates[i] for i in batch], device)


def _product(query: Tensor) -> Callable[[Tensor], tuple[Tensor, float]]:
    """From descriptors (M, D) to their cosines (1, N, M) with (N, D), and what a value of 1 is."""
    return lambda candidate: ((query @ candidate.T)[None], 1.0)


def _integer_product(query: Tensor) -> Callable[[Tensor], tuple[Tensor, float]]:
    """The same from descriptors rounded to int8, in integers.

    With AVX-512 VNNI 3.5 times as fast as in float32; the cosines of 128 values have errors of about 0.0015.
    """
    ours, scale = _to_int8(query)

    def product(candidate: Tensor) -> tuple[Tensor, float]:
        theirs, other = _to_int8(candidate)
        return torch._int_mm(ours, theirs.T)[None], 1 / (scale * other)

    return product


def _to_int8(descriptors: Tensor) -> tuple[Tensor, float]:
    """Descriptors times a scale, so that the largest value of all is the largest int8; and the scale."""
    least, most = descriptors.aminmax()
    scale = _LARGEST / max(-float(least), float(most), 1e-6)
    return (descriptors * scale).round_().to(torch.int8), scale


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


class Neighbours(NamedTuple):
    """The nearest of a candidate's points for each of N points of a query, of K candidates."""

    nearest: Tensor  # (K, N) its row
    cosine: Tensor  # (K, N)
    mutual: Tensor  # (K, N) whether both are nearest to each other; of equally near points one is taken
    ratio: Tensor  # (K, N) nearest over second nearest distance, the larger of both directions; inf if not mutual


def mutual_nearest(similarity: Tensor, unit: float = 1.0) -> Neighbours:
    """The nearest of M for each of N points. (K, N, M) are cosines, or integers of which 1 is the cosine ``unit``.

    They are overwritten. A column's largest value is that of the rows nearest to it, or of the rest, whose nearest are
    blanked out. So all is read three times; the nearest of each of the M points, which nobody needs, is not sought.
    """
    forward = _argmax(similarity, 2)
    place = forward[..., None]
    lowest = -torch.inf if similarity.is_floating_point() else torch.iinfo(similarity.dtype).min
    nearest = similarity.gather(2, place)[..., 0]
    similarity.scatter_(2, place, lowest)
    best, second, rest = (
        torch.where(each == lowest, -torch.inf, each * unit)
        for each in (nearest, similarity.amax(2), similarity.amax(1))
    )
    mutual = best == torch.maximum(_largest_by_column(best, forward, rest), rest).gather(1, forward)
    mutual = first_of_column(mutual, forward, rest.shape[1])
    rivals = _largest_by_column(best.masked_fill(mutual, -torch.inf), forward, rest)
    backward = _ratio(best, torch.maximum(rivals, rest).gather(1, forward))
    ratio = torch.maximum(_ratio(best, second), backward).where(mutual, torch.inf)
    return Neighbours(forward, best, mutual, ratio)


def first_of_column(chosen: Tensor, columns: Tensor, count: int) -> Tensor:
    """(K, N) which of the chosen rows is the first of its column, one of ``count``; columns are (K, N)."""
    none = chosen.shape[1]
    row = torch.arange(none, device=chosen.device).expand_as(columns)
    first = columns.new_full((len(chosen), count), none)
    first.scatter_reduce_(1, columns, row.where(chosen, none), "amin")
    return chosen & (first.gather(1, columns) == row)


def _largest_by_column(values: Tensor, columns: Tensor, like: Tensor) -> Tensor:
    """(K, M) the largest of the values (K, N) that lie in each column, -inf where there is none."""
    return torch.full_like(like, -torch.inf).scatter_reduce_(1, columns, values, "amax")


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
