"""Losses of descriptors by the places they are of, from pytorch-metric-learning, chosen by name.

Multi-similarity: Wang et al., CVPR 2019, arXiv:1904.06627, with the hyperparameters that GSV-Cities (Ali-bey et al.,
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
    """A loss of unit descriptors, over the pairs that a miner finds.

    With ``memory`` the descriptors of the last batches, this many of them, are also compared with (cross-batch memory,
    Wang et al., CVPR 2020, arXiv:1912.06798). They are kept here, and a resumed run begins without any.
    """

    def __init__(self, loss: str, miner: str, memory: int = 0) -> None:
        try:
            from pytorch_metric_learning import losses, miners
        except ImportError:
            raise ConfigError(
                "training a global descriptor needs pytorch-metric-learning: pip install 'vpr[train]'"
            ) from None
        self.loss = LOSSES[loss](losses)
        self.miner = MINERS[miner](miners)
        self.memory = memory
        self._kept: tuple[Tensor, Tensor, Tensor] | None = None

    def __call__(self, vectors: Tensor, labels: Tensor, groups: Tensor) -> tuple[Tensor, Tensor]:
        """The loss of vectors (B, D) by their places (B,), and the number of negative pairs in it.

        Two images of different places but one group may show the same, and are no pair.
        """
        vectors = vectors.float()
        others = (vectors, labels, groups)
        if self._kept is not None:
            others = (
                torch.cat([vectors, self._kept[0]]),
                torch.cat([labels, self._kept[1]]),
                torch.cat([groups, self._kept[2]]),
            )
        seen = (vectors.detach(), labels, groups)
        # One object where nothing is remembered: by it the miner knows which pairs are a descriptor and itself.
        pairs = self._pairs(seen, seen if self._kept is None else (others[0].detach(), *others[1:]))
        loss: Tensor = self.loss(vectors, labels, pairs, others[0], others[1])
        if self.memory:
            self._kept = (others[0][: self.memory].detach(), others[1][: self.memory], others[2][: self.memory])
        return loss, torch.tensor(float(len(pairs[2])))

    def _pairs(self, batch: tuple[Tensor, Tensor, Tensor], others: tuple[Tensor, Tensor, Tensor]) -> Pairs:
        """Rows of the batch and of ``others``, which begin with the batch."""
        if self.miner is None:
            from pytorch_metric_learning.utils.loss_and_miner_utils import get_all_pairs_indices

            one, positive, other, negative = get_all_pairs_indices(batch[1], others[1])
        else:
            one, positive, other, negative = self.miner(batch[0], batch[1], others[0], others[1])
        not_itself = one != positive
        apart = batch[2][other] != others[2][negative]
        return one[not_itself], positive[not_itself], other[apart], negative[apart]
