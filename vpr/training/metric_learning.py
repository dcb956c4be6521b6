"""Losses of descriptors by the places they are of, from pytorch-metric-learning, chosen by name.

Multi-similarity: Wang et al., CVPR 2019, arXiv:1904.06627, with the numbers that GSV-Cities (Ali-bey et al.,
Neurocomputing 2022) found for places.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from vpr.core import ConfigError

Pairs = tuple[Tensor, Tensor, Tensor, Tensor]  # anchors and positives, anchors and negatives

LOSSES: dict[str, Callable[[ModuleType], Any]] = {
    "circle": lambda losses: losses.CircleLoss(m=0.4, gamma=80),
    "contrastive": lambda losses: losses.ContrastiveLoss(),
    "multi_similarity": lambda losses: losses.MultiSimilarityLoss(alpha=1.0, beta=50.0, base=0.0),
    "ntxent": lambda losses: losses.NTXentLoss(),
    "supcon": lambda losses: losses.SupConLoss(),
    "triplet": lambda losses: losses.TripletMarginLoss(margin=0.1),
}
MINERS: dict[str, Callable[[ModuleType], Any]] = {
    "all": lambda miners: None,  # every pair
    "multi_similarity": lambda miners: miners.MultiSimilarityMiner(epsilon=0.1),
    "pair_margin": lambda miners: miners.PairMarginMiner(pos_margin=0.2, neg_margin=0.8),
}


class MetricLoss:
    """A loss of unit descriptors, over the pairs that a miner finds."""

    def __init__(self, loss: str, miner: str) -> None:
        try:
            from pytorch_metric_learning import losses, miners
        except ImportError:
            raise ConfigError(
                "training a global descriptor needs pytorch-metric-learning: pip install 'vpr[train]'"
            ) from None
        self.loss = LOSSES[loss](losses)
        self.miner = MINERS[miner](miners)

    def __call__(self, vectors: Tensor, labels: Tensor, groups: Tensor) -> tuple[Tensor, Tensor]:
        """The loss of vectors (B, D) by their places (B,), and the number of negative pairs in it.

        Two pictures of different places but one group may show the same, and are no pair.
        """
        vectors = vectors.float()
        pairs = self._pairs(vectors.detach(), labels, groups)
        loss: Tensor = self.loss(vectors, labels, pairs)
        return loss, torch.tensor(float(len(pairs[2])))

    def _pairs(self, vectors: Tensor, labels: Tensor, groups: Tensor) -> Pairs:
        if self.miner is None:
            from pytorch_metric_learning.utils.loss_and_miner_utils import get_all_pairs_indices

            one, positive, other, negative = get_all_pairs_indices(labels)
        else:
            one, positive, other, negative = self.miner(vectors, labels)
        apart = groups[other] != groups[negative]
        return one, positive, other[apart], negative[apart]
