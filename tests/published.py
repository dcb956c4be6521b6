"""What the tests of the published networks share: small random weights, and plain references."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor, nn

from vpr.core import LocalFeatures

CPU = torch.device("cpu")


def module_at(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


plain = module_at(Path(__file__).parents[1] / "benchmarks" / "plain.py")


def randomise(network: nn.Module, seed: int = 0, gain: float = 1.0) -> nn.Module:
    """Weights, biases and BatchNorm statistics that all matter, a third of the BatchNorm factors negative."""
    generator = torch.Generator().manual_seed(seed)

    def normal(like: Tensor) -> Tensor:
        return torch.randn(like.shape, generator=generator)

    for module in network.modules():
        if isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Linear)):
            module.weight.data = gain * normal(module.weight) / module.weight[0].numel() ** 0.5
            if module.bias is not None:
                module.bias.data = 0.2 * normal(module.bias)
        elif isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            if module.affine:
                module.weight.data = 0.5 + normal(module.weight)
                module.bias.data = 0.3 * normal(module.bias)
            module.running_mean = 0.3 * normal(module.running_mean)
            module.running_var = 0.5 + normal(module.running_var).abs()
    return network.eval()


def random_features(count: int, dim: int, seed: int, size: tuple[int, int] = (640, 480)) -> LocalFeatures:
    generator = torch.Generator().manual_seed(seed)
    points = torch.rand(count, 2, generator=generator) * torch.tensor(size)
    descriptors = torch.randn(count, dim, generator=generator)
    scores = torch.rand(count, generator=generator)
    return LocalFeatures(points, scores, torch.nn.functional.normalize(descriptors, dim=1), size)


def features_of_seed(seed: int) -> LocalFeatures:
    """Features as random as the seed, for suites that ask for nothing more."""
    return random_features(60, 16, seed)


def alike(features: LocalFeatures, count: int, seed: int, noise: float = 0.3) -> LocalFeatures:
    """Another view: ``count`` points, of which most are points of ``features``, moved and with noisy descriptors."""
    generator = torch.Generator().manual_seed(seed)
    other = random_features(count, features.descriptors.shape[1], seed, features.image_size)
    common = min(count, len(features)) * 3 // 4
    rows = torch.randperm(len(features), generator=generator)[:common]
    places = torch.randperm(count, generator=generator)[:common]
    points, descriptors = other.keypoints.clone(), other.descriptors.clone()
    points[places] = features.keypoints[rows] + 3
    descriptors[places] = features.descriptors[rows] + noise * descriptors[places]
    return LocalFeatures(points, other.scores, torch.nn.functional.normalize(descriptors, dim=1), other.image_size)


def same_matches(ours, theirs, tolerance: float = 1e-4) -> bool:
    return torch.equal(ours.pairs, theirs.pairs) and torch.allclose(ours.scores, theirs.scores, rtol=0, atol=tolerance)
