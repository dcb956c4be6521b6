"""The published training of NetVLAD: triplets with cached hard-negative mining, epoch by epoch.

Arandjelovic et al., CVPR 2016, with Patch-NetVLAD's hyperparameters (Hausler et al., CVPR 2021). Checkpoints have that
project's keys, so that either continues the other's. Here a query learns from the negatives that violate the margin
only; the published script takes its five nearest always, of which the others add nothing to the sum, but to the
number by which it is divided.
"""

from __future__ import annotations

import io
import logging
import pickle
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from vpr.config import Section
from vpr.core import ConfigError, ImageSet
from vpr.evaluation.recall import first_hits
from vpr.global_descriptors.netvlad import NetVladNetwork
from vpr.index import build_index, shortlist
from vpr.runtime.files import write_atomically
from vpr.training.colour_images import ColourImages
from vpr.training.gradient_steps import GradientSteps
from vpr.training.journal import Journal
from vpr.training.netvlad_data import TrainingData
from vpr.training.netvlad_network import train_last
from vpr.training.randomness import randomness
from vpr.training.triplets import Triplet, TripletSet
from vpr.weights import load_strictly, read_checkpoint

logger = logging.getLogger(__name__)

CHECKPOINT, BEST = "checkpoint.pth.tar", "model_best.pth.tar"
RECALLS = (1, 5, 10, 20, 50, 100)
DECIDES = 5  # recall at this says which epoch is best


class Settings(Section):
    """Settings of the recipe, with the published values."""

    backbone: str = "imagenet"  # initial VGG16: "imagenet", "random", or the path of a checkpoint
    clusters: int = Field(16, ge=1)
    trained_modules: int = Field(5, ge=0)  # of VGG16, from its end
    width: int = Field(640, ge=32)
    height: int = Field(480, ge=32)
    batch_size: int = Field(4, ge=1)  # queries, each with its positive and its negatives
    cache_batch_size: int = Field(20, ge=1)
    cached_queries: int = Field(1000, ge=1)
    cached_negatives: int = Field(1000, ge=1)
    negatives: int = Field(5, ge=1)  # of each query, at most
    margin: float = Field(0.1, gt=0)  # its square root is the difference of distances that is asked for
    positive_radius_m: float = Field(10.0, gt=0)
    negative_radius_m: float = Field(25.0, gt=0)
    optimizer: Literal["sgd", "adam"] = "sgd"
    learning_rate: float = Field(1e-4, gt=0)
    rate_step: int = Field(5, ge=1)  # epochs, after which the rate is multiplied by
    rate_factor: float = Field(0.5, gt=0, le=1)
    weight_decay: float = Field(1e-3, ge=0)
    momentum: float = Field(0.9, ge=0, lt=1)
    patience: int = Field(10, ge=0)  # epochs without a better recall@5, after which it ends; 0 for never
    evaluate_every: int = Field(1, ge=1)
    dim: int = Field(4096, ge=1)  # after PCA, which follows
    whitening_images: int = Field(10_000, ge=2)
    seed: int = 123


class Recipe:
    """A run: the network, and how far it has come. ``epoch`` counts finished epochs, ``subset`` parts of the next."""

    def __init__(
        self, network: NetVladNetwork, data: TrainingData, settings: Settings, *, loader: ColourImages, out: Path
    ) -> None:
        self.network = network.to(loader.device)
        train_last(self.network, settings.trained_modules)
        self.settings, self.loader, self.out = settings, loader, out
        self.validation = data.validation
        self.triplets = TripletSet(
            data.training.queries,
            data.training.database,
            data.weights,
            settings.positive_radius_m,
            settings.negative_radius_m,
        )
        self.updates = GradientSteps(self.network, _optimizer(self.network, settings), loader.device)
        self.epoch = self.subset = self.not_improved = self.steps = 0
        self.best, self.recalls = 0.0, dict[int, float]()

    def run(self, epochs: int, save_every_epoch: bool = False) -> None:
        """Train until this many epochs are done, from where the run stands, or until it no longer improves."""
        journal = Journal(self.out, self.steps)
        try:
            while self.epoch < epochs and not self._stuck():
                self._train_epoch(journal)
                if self.epoch % self.settings.evaluate_every == 0:
                    self._evaluate(journal)
                self.save(self.out / CHECKPOINT)
                if save_every_epoch:
                    self.save(self.out / f"checkpoint_epoch{self.epoch}.pth.tar")
                journal.flush()
        finally:
            journal.close()

    def save(self, path: Path) -> None:
        content = io.BytesIO()
        torch.save(
            {
                "epoch": self.epoch,
                "subset": self.subset,
                "steps": self.steps,
                "state_dict": self.network.state_dict(),
                "recalls": self.recalls,
                "best_score": self.best,
                "not_improved": self.not_improved,
                **self.updates.state_dict(),
                "parallel": False,
            },
            content,
        )
        write_atomically(path, content.getvalue())

    def resume(self, path: Path) -> None:
        """Continue from a checkpoint of this recipe; of a file with other objects in it, only from its weights."""
        load_strictly(self.network, read_checkpoint(path), str(path))
        try:
            saved: dict[str, Any] = torch.load(path, map_location=self.loader.device, weights_only=True)
            self.updates.load_state_dict({"scaler": {}, **saved})  # published checkpoints have no scaler
        except (pickle.UnpicklingError, RuntimeError, KeyError, ValueError) as error:
            logger.warning("%s: only its weights are continued: %s", path, str(error).splitlines()[0])
            return
        self.epoch, self.best = int(saved["epoch"]), float(saved["best_score"])
        self.subset, self.steps = int(saved.get("subset", 0)), int(saved.get("steps", 0))
        self.not_improved, self.recalls = int(saved.get("not_improved", 0)), dict(saved.get("recalls", {}))

    def _stuck(self) -> bool:
        return 0 < self.settings.patience < self.not_improved * self.settings.evaluate_every

    def _train_epoch(self, journal: Journal) -> None:
        settings = self.settings
        self.updates.set_rate(settings.learning_rate * settings.rate_factor ** (self.epoch // settings.rate_step))
        random = randomness(settings.seed, self.epoch).numpy
        subsets = list(self.triplets.subsets(settings.cached_queries, settings.cached_negatives, random))
        for number in range(self.subset, len(subsets)):
            asked = self._describe(self.triplets.queries, subsets[number].queries)
            found = self._describe(self.triplets.database, subsets[number].candidates)
            mined = self.triplets.mine(subsets[number], asked, found, settings.margin**0.5, settings.negatives)
            self._learn(mined, randomness(settings.seed, self.epoch, number).numpy, journal)
            self.subset = number + 1
            if self.subset < len(subsets):  # after the last, ``run`` measures and saves
                self.save(self.out / CHECKPOINT)
        self.epoch, self.subset = self.epoch + 1, 0

    def _learn(self, mined: Sequence[Triplet], random: np.random.Generator, journal: Journal) -> None:
        order = random.permutation(len(mined)).tolist()
        losses = []
        for first in range(0, len(order), self.settings.batch_size):
            batch = [mined[row] for row in order[first : first + self.settings.batch_size]]
            found = self.updates.update(partial(self._losses, triplets=batch))
            self.steps += 1
            losses += [float(found["loss"])] if found else []
        self.network.eval()
        loss_now = float(np.mean(losses)) if losses else 0.0
        journal.add("train", self.steps, {"epoch": self.epoch, "triplets": len(mined), "loss": round(loss_now, 6)})
        logger.info("epoch %d: %d triplets, loss %.4f", self.epoch + 1, len(mined), loss_now)

    def _losses(self, model: nn.Module, triplets: Sequence[Triplet]) -> dict[str, Tensor]:
        """Mean over all negatives of the margin that is missing between the distances to positive and negative."""
        queries, database = self.triplets.queries, self.triplets.database
        paths = [queries.path(each.query) for each in triplets] + [database.path(each.positive) for each in triplets]
        paths += [database.path(int(row)) for each in triplets for row in each.negatives]
        vectors = model(self.loader.together(paths))
        count = len(triplets)
        owner = torch.repeat_interleave(torch.tensor([len(each.negatives) for each in triplets])).to(vectors.device)
        anchors, positives = vectors[:count][owner], vectors[count : 2 * count][owner]
        margin = self.settings.margin**0.5
        return {"loss": functional.triplet_margin_loss(anchors, positives, vectors[2 * count :], margin=margin)}

    def _evaluate(self, journal: Journal) -> None:
        """Recall on the validation data; a better recall@5 makes these the best weights."""
        data = self.validation
        found, asked = (
            self._describe(images, np.arange(len(images), dtype=np.int64)) for images in (data.database, data.queries)
        )
        ranking = shortlist(build_index(found, "Flat"), asked, max(RECALLS))
        hits = first_hits(ranking, data.positives or ())
        self.recalls = {k: float((hits <= k).mean()) for k in RECALLS}
        journal.add("validation", self.steps, {f"recall_at_{k}": round(self.recalls[k], 6) for k in RECALLS})
        logger.info("epoch %d: %s", self.epoch, ", ".join(f"recall@{k} {self.recalls[k]:.4f}" for k in RECALLS))
        better = self.recalls[DECIDES] > self.best or not (self.out / BEST).exists()
        self.not_improved = 0 if better else self.not_improved + 1
        if better:
            self.best = self.recalls[DECIDES]
            self.save(self.out / BEST)

    def _describe(self, images: ImageSet, rows: np.ndarray) -> Any:
        paths = [images.path(row) for row in rows.tolist()]
        self.network.eval()
        return self.loader.describe(paths, self.network).numpy()


def _optimizer(network: NetVladNetwork, settings: Settings) -> torch.optim.Optimizer:
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    if not trained:
        raise ConfigError("nothing is left to train")
    if settings.optimizer == "adam":
        return torch.optim.Adam(trained, settings.learning_rate)
    return torch.optim.SGD(
        trained, settings.learning_rate, momentum=settings.momentum, weight_decay=settings.weight_decay
    )
