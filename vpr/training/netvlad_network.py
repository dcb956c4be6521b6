"""NetVLAD before its training: VGG16 from somewhere, clusters by k-means."""

from __future__ import annotations

import logging
import math
from pathlib import Path

import faiss
import numpy as np
import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn
from torch.nn import functional

from vpr.core import Floats, ImageSet
from vpr.global_descriptors.netvlad import WIDTH, NetVladNetwork
from vpr.runtime.files import write_atomically
from vpr.training.colour_images import ColourImages
from vpr.weights import WeightsError, find, load_strictly, read_checkpoint

logger = logging.getLogger(__name__)

DESCRIPTORS, PER_IMAGE = 50_000, 100  # that k-means sees
ITERATIONS = 100


def fresh_network(clusters: int, backbone: str) -> NetVladNetwork:
    """NetVLAD whose VGG16 is torchvision's ("imagenet"), random, or that of a checkpoint; its clusters are not set."""
    network = NetVladNetwork(clusters, None)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
    load_strictly(network.encoder, _backbone(backbone), backbone)
    return network


def find_clusters(network: NetVladNetwork, images: ImageSet, loader: ColourImages, cache: Path, seed: int) -> None:
    """Set the clusters to those of k-means on features of some images; they are kept in the file ``cache``."""
    clusters = len(network.pool.centroids)
    if cache.exists():
        known = load_file(cache)
        centroids, features = (known[name].numpy() for name in ("centroids", "descriptors"))
    else:
        random = np.random.default_rng(seed)
        rows = random.permutation(len(images))[: math.ceil(DESCRIPTORS / PER_IMAGE)]
        features = _features(network, images, np.sort(rows), loader, random)
        kmeans = faiss.Kmeans(
            WIDTH, clusters, niter=ITERATIONS, seed=seed, min_points_per_centroid=1, max_points_per_centroid=10**6
        )
        kmeans.train(features)
        centroids = np.asarray(kmeans.centroids, np.float32)
        arrays = {"centroids": torch.from_numpy(centroids), "descriptors": torch.from_numpy(features)}
        cache.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(cache, save(arrays))
    if centroids.shape != (clusters, WIDTH):
        raise WeightsError(f"{cache}: holds centroids of shape {centroids.shape}, wanted {(clusters, WIDTH)}")
    set_clusters(network, centroids, features)


def set_clusters(network: NetVladNetwork, centroids: Floats, features: Floats) -> None:
    """Centroids, and an assignment so sharp that the second nearest has a hundredth of the nearest's share, on average.

    Arandjelovic et al., CVPR 2016, appendix A. The nearest are the most similar in direction.
    """
    directions = centroids / np.linalg.norm(centroids, axis=1, keepdims=True)
    similar = np.sort(features @ directions.T, axis=1)
    sharpness = math.log(100) / float((similar[:, -1] - similar[:, -2]).mean()) if len(centroids) > 1 else 1.0
    with torch.no_grad():
        network.pool.centroids.copy_(torch.from_numpy(centroids))
        network.pool.conv.weight.copy_(torch.from_numpy(sharpness * directions)[:, :, None, None])


def train_last(network: NetVladNetwork, modules: int) -> None:
    """Only the last this many modules of VGG16, and the pooling, are to learn."""
    for module in list(network.encoder)[: len(network.encoder) - modules]:
        module.requires_grad_(False)


def _features(
    network: NetVladNetwork, images: ImageSet, rows: np.ndarray, loader: ColourImages, random: np.random.Generator
) -> Floats:
    """At most PER_IMAGE unit features of each image, from random places."""
    chosen = []
    with torch.inference_mode():
        for batch in loader.batches([images.path(row) for row in rows.tolist()]):
            for features in functional.normalize(network.encoder(batch).flatten(2), dim=1).transpose(1, 2):
                places = random.permutation(len(features))[:PER_IMAGE]
                chosen.append(features[torch.from_numpy(places).to(features.device)].cpu())
    return torch.cat(chosen).numpy()


def _backbone(name: str) -> dict[str, Tensor]:
    """VGG16's weights to conv5_3 under the names of its modules."""
    if name in ("imagenet", "random"):
        from torchvision.models import VGG16_Weights, vgg16  # type: ignore[import-untyped]

        try:
            model: nn.Module = vgg16(weights=VGG16_Weights.IMAGENET1K_V1 if name == "imagenet" else None)
        except OSError as error:
            raise WeightsError(
                f"torchvision's weights of VGG16 cannot be fetched: {error}; "
                "name a file of them, or a checkpoint of NetVLAD, in the setting backbone"
            ) from None
        state = model.state_dict()
    else:
        state = read_checkpoint(find(name).path)
    for prefix in ("features.", "encoder."):
        found = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
        if found:
            return found
    raise WeightsError(f"{name}: holds no VGG16, whose tensors begin with features. or encoder.")
