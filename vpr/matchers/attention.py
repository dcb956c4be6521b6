"""Multi-head attention as the graph matchers use it."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


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


def two_inputs(x: Tensor, message: Tensor, own: Tensor, sent: Tensor, bias: Tensor) -> Tensor:
    """``cat([x, message]) @ cat([own, sent]).T + bias`` for (B, N, C) inputs, without copying them side by side."""
    hidden = torch.addmm(bias, x.flatten(0, 1), own.T)
    return hidden.addmm_(message.flatten(0, 1), sent.T).view(*x.shape[:2], -1)
