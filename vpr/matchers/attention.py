"""Multi-head attention as the graph matchers use it."""

from __future__ import annotations

from itertools import product

import torch
from torch import Tensor
from torch.nn import functional

TOGETHER = 1 << 18  # similarities: 1 MB, which stay in the cache
SMALLEST_SUM, LARGEST_SUM = 1e-25, 1e30  # of exponentials; what is lost below float32's range is less than its rounding


def attend(q: Tensor, k: Tensor, v: Tensor, heads: int, mask: Tensor | None = None) -> Tensor:
    """Message to each of M points from N others: q (B, M, C), k and v (B, N, C), head h in columns h * C / heads on.

    ``mask``, (B, N), is True for the real ones among the N; None if all are.
    """
    q, k, v = (each.view(*each.shape[:2], heads, -1).transpose(1, 2) for each in (q, k, v))
    return attend_by_head(q, k, v, mask)


def attend_by_head(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """The same for (B, heads, N, C / heads) inputs."""
    return attention(q, k, v, mask).transpose(1, 2).flatten(2)


def attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """The message of each head to each point, (B, heads, M, C / heads)."""
    keys = None if mask is None else mask[:, None, None, :]
    if not (q.requires_grad and q.dtype is torch.bfloat16 and q.device.type == "cpu"):
        return functional.scaled_dot_product_attention(q, k, v, attn_mask=keys)
    # There, the gradient of torch's own takes six times as long as the function, and twice as long as this one's.
    scores: Tensor = (q * q.shape[-1] ** -0.5) @ k.mT
    if keys is not None:
        scores = scores.masked_fill(~keys, -torch.inf)
    return scores.softmax(-1) @ v


def attend_both(
    qk: tuple[Tensor, Tensor], v: tuple[Tensor, Tensor], heads: int, masks: tuple[Tensor | None, Tensor | None]
) -> tuple[Tensor, Tensor]:
    """Messages (B, M, C) and (B, N, C) of two images to each other, where a point's query is its key as well.

    ``qk`` and ``v`` hold (B, M, C) and (B, N, C). On a CPU the exponentials of the similarities, which are the same
    both ways, are made once: of 1024 points in 0.9 of the time, of 300 in 0.8.
    """
    both = None
    if qk[0].device.type == "cpu" and qk[0].dtype is torch.float32 and masks == (None, None):
        both = _attend_both(qk, v, heads)
    if both is None:
        both = attend(qk[0], qk[1], v[1], heads, masks[1]), attend(qk[1], qk[0], v[0], heads, masks[0])
    return both


def _attend_both(qk: tuple[Tensor, Tensor], v: tuple[Tensor, Tensor], heads: int) -> tuple[Tensor, Tensor] | None:
    """The same by exponentials that are not made small first; None where float32 cannot hold them."""
    (batch, count0, dim), count1 = qk[0].shape, qk[1].shape[1]
    message0, message1 = (torch.empty(batch, each.shape[1], heads, dim // heads) for each in qk)
    rows = max(1, TOGETHER // max(1, count1))
    for pair, head in product(range(batch), range(heads)):
        (q, k), (v0, v1) = ([each[pair].view(len(each[pair]), heads, -1)[:, head] for each in two] for two in (qk, v))
        q = q * q.shape[-1] ** -0.5
        sent, total = torch.zeros(count1, dim // heads), torch.zeros(count1)
        for first in range(0, count0, rows):
            some = slice(first, first + rows)
            weights = torch.mm(q[some], k.T).exp_()  # (m, N)
            sums = weights.sum(1)
            if not _held(sums):
                return None
            message0[pair, some, head] = torch.mm(weights, v1).div_(sums[:, None])
            sent.addmm_(weights.T, v0[some])
            total += weights.sum(0)
        if not _held(total):
            return None
        message1[pair, :, head] = sent.div_(total[:, None])
    return message0.flatten(2), message1.flatten(2)


def _held(sums: Tensor) -> bool:
    smallest, largest = sums.aminmax()
    return float(smallest) > SMALLEST_SUM and float(largest) < LARGEST_SUM


def two_inputs(x: Tensor, message: Tensor, own: Tensor, sent: Tensor, bias: Tensor) -> Tensor:
    """``cat([x, message]) @ cat([own, sent]).T + bias`` for (B, N, C) inputs, without copying them side by side."""
    hidden = torch.addmm(bias, x.flatten(0, 1), own.T)
    return hidden.addmm_(message.flatten(0, 1), sent.T).view(*x.shape[:2], -1)
