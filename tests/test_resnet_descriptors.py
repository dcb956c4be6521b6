"""GeM, CosPlace and EigenPlaces on ResNets and VGG16, and MixVPR."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import textured
from torch import Tensor, nn
from torch.nn import functional
from torchvision import models

from vpr.config import load, parse
from vpr.core import ConfigError, GlobalDescriptor
from vpr.global_descriptors import GLOBAL_DESCRIPTORS, mixvpr, resnet
from vpr.global_descriptors.resnet import GeneralisedMean
from vpr.settings import Settings
from vpr.weights import WeightsError, sha256_of

CPU = torch.device("cpu")


def random_backbone(name: str) -> nn.Sequential:
    """Random, with running statistics that matter; the parts are numbered as CosPlace numbers them."""
    torch.manual_seed(0)
    network = models.get_model(name, weights=None)
    parts = list(network.features)[:-2] if name == "vgg16" else list(network.children())[:-2]
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean = 0.1 * torch.randn(module.num_features)
            module.running_var = 1 + 0.2 * torch.rand(module.num_features)
    return nn.Sequential(*parts).eval()


def published(backbone: nn.Sequential, dim: int | None, p: float = 2.5) -> dict[str, Tensor]:
    """CosPlace's keys; without ``dim`` those of a plain GeM."""
    state = {f"backbone.{key}": value for key, value in backbone.state_dict().items()}
    state["aggregation.1.p"] = torch.tensor([p])
    if dim is not None:
        channels = backbone(torch.zeros(1, 3, 32, 32)).shape[1]
        generator = torch.Generator().manual_seed(1)
        state["aggregation.3.weight"] = torch.randn(dim, channels, generator=generator) / channels**0.5
        state["aggregation.3.bias"] = 0.1 * torch.randn(dim, generator=generator)
    return state


def built(state: dict[str, Tensor], path: Path, method: str = "cosplace", **settings) -> GlobalDescriptor:
    torch.save(state, path)
    chosen = GLOBAL_DESCRIPTORS[method]
    return chosen.build(parse(chosen.settings, {"method": method, "weights": str(path), **settings}), CPU)


def plain_gem(maps: Tensor, p: float) -> Tensor:
    """(C, h, w) to (C,), channel by channel, of features that are unit vectors at each place."""
    unit = maps / maps.norm(dim=0, keepdim=True)
    means = [np.mean([max(float(x), 1e-6) ** p for x in channel.flatten()]) for channel in unit]
    return torch.tensor(np.array(means) ** (1 / p))


@pytest.fixture(scope="module")
def resnet18() -> nn.Sequential:
    return random_backbone("resnet18")


def test_generalised_mean_by_hand() -> None:
    pool = GeneralisedMean()
    maps = torch.tensor([[[[1.0, 2.0], [3.0, -5.0]]]])
    assert torch.allclose(pool(maps).flatten(), torch.tensor([(1 + 8 + 27) / 4]) ** (1 / 3))
    pool.p.data[:] = 1
    assert torch.allclose(pool(maps).flatten(), torch.tensor([6 / 4]))


@torch.no_grad()
def test_descriptor_against_the_definition(resnet18: nn.Sequential, tmp_path: Path) -> None:
    state = published(resnet18, 5)
    method = built(state, tmp_path / "w.pth")
    image = method.preprocess(textured(0, 64, 96))
    mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    maps = resnet18(((image / 255 - mean[:, None, None]) / deviation[:, None, None])[None])[0]
    projected = state["aggregation.3.weight"] @ plain_gem(maps, 2.5).float() + state["aggregation.3.bias"]
    ours = method.describe([image])[0]
    assert torch.allclose(ours, projected / projected.norm(), atol=1e-5)
    assert method.dim == 5 and method.weights == sha256_of(tmp_path / "w.pth")


@pytest.mark.parametrize("method", ["cosplace", "eigenplaces", "gem"])
def test_images_of_many_sizes(resnet18: nn.Sequential, tmp_path: Path, method: str) -> None:
    descriptor = built(published(resnet18, 7), tmp_path / "w.pth", method)
    images = [descriptor.preprocess(textured(seed, 64, 64 + 32 * (seed % 2))) for seed in range(4)]
    together = descriptor.describe(images)
    assert together.shape == (4, 7)
    assert torch.allclose(together.norm(dim=1), torch.ones(4), atol=1e-5)
    for image, row in zip(images, together, strict=True):
        assert torch.allclose(descriptor.describe([image])[0], row, atol=1e-6)
    blank = descriptor.describe([descriptor.preprocess(np.zeros((40, 40, 3), np.uint8))])
    assert torch.isfinite(blank).all()


@pytest.mark.parametrize(
    ("size", "shape"), [((480, 640), (480, 640)), ((1024, 2048), (512, 1024)), ((90, 80), (90, 80))]
)
def test_only_large_images_are_shrunk(
    resnet18: nn.Sequential, tmp_path: Path, size: tuple[int, int], shape: tuple[int, int]
) -> None:
    descriptor = built(published(resnet18, 3), tmp_path / "w.pth")
    assert tuple(descriptor.preprocess(textured(0, *size)).shape) == (3, *shape)


@torch.no_grad()
@pytest.mark.parametrize(("name", "dim"), [("resnet50", 9), ("resnet101", 4), ("vgg16", 6), ("resnet18", None)])
def test_backbone_and_size_are_read_off_the_weights(name: str, dim: int | None, tmp_path: Path) -> None:
    backbone = random_backbone(name)
    descriptor = built(published(backbone, dim), tmp_path / "w.pth")
    assert descriptor.dim == (512 if dim is None else dim)
    image = descriptor.preprocess(textured(1, 48, 64))
    maps = backbone(resnet.IMAGENET.normalise(image[None]))
    _, ours = next(descriptor.backbone.maps([image]))
    assert torch.allclose(ours, maps, atol=1e-3 * float(maps.abs().max()))


@torch.no_grad()
def test_a_backbone_cut_before_its_last_stage(resnet18: nn.Sequential, tmp_path: Path) -> None:
    """As the deep visual geo-localization benchmark's ``resnet18conv4``."""
    descriptor = built(published(resnet18[:7], None, p=3.0), tmp_path / "w.pth", "gem")
    image = descriptor.preprocess(textured(1, 64, 64))
    pooled = plain_gem(resnet18[:7](resnet.IMAGENET.normalise(image[None]))[0], 3.0).float()
    assert descriptor.dim == 256
    assert torch.allclose(descriptor.describe([image])[0], pooled / pooled.norm(), atol=1e-5)


def test_weights_of_something_else_are_refused_by_key(resnet18: nn.Sequential, tmp_path: Path) -> None:
    state = published(resnet18, 4)
    del state["aggregation.1.p"]
    with pytest.raises(WeightsError, match=r"not weights of GemNetwork: missing 1 keys \(aggregation.1.p\)"):
        built(state, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match="not weights of GemNetwork"):
        built({"encoder.0.weight": torch.zeros(3)}, tmp_path / "w.pth")


def test_weights_are_named_by_the_method_or_must_be() -> None:
    assert resnet.EigenPlacesSettings().weights == "eigenplaces_resnet50_2048"
    for method in ("gem", "mixvpr"):
        with pytest.raises(ConfigError, match=r"weights.*required"):
            load(Settings, None, [f"global_descriptor.method={method}"])


# ---------------------------------------------------------------- MixVPR


def mixvpr_state(backbone: nn.Sequential, channels: int = 6, rows: int = 2, mixers: int = 2) -> dict[str, Tensor]:
    """The published keys, for pictures of 64x64, which have 16 features."""
    names = ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3")
    state = {
        f"backbone.model.{name}.{key}": value
        for name, part in zip(names, backbone, strict=False)
        for key, value in part.state_dict().items()
    }
    generator = torch.Generator().manual_seed(2)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator) / shape[-1] ** 0.5

    for i in range(mixers):
        for place, shape in {"0": (16,), "1": (16, 16), "3": (16, 16)}.items():
            state[f"aggregator.mix.{i}.mix.{place}.weight"] = normal(*shape)
            state[f"aggregator.mix.{i}.mix.{place}.bias"] = normal(16)
    for name, shape in {"channel_proj": (channels, 1024), "row_proj": (rows, 16)}.items():
        state[f"aggregator.{name}.weight"], state[f"aggregator.{name}.bias"] = normal(*shape), normal(shape[0])
    return state


@torch.no_grad()
def test_mixvpr_against_the_definition(tmp_path: Path) -> None:
    backbone = random_backbone("resnet50")
    state = mixvpr_state(backbone)
    descriptor = built(state, tmp_path / "w.pth", "mixvpr")
    assert descriptor.dim == 12
    images = [descriptor.preprocess(textured(seed, 70, 90)) for seed in range(2)]
    assert images[0].shape == (3, 64, 64)
    x = backbone[:7](mixvpr.IMAGENET.normalise(images[0][None]))[0].flatten(1)  # (1024, 16)
    for i in range(2):
        part = {key: state[f"aggregator.mix.{i}.mix.{key}"] for key in ("0.weight", "0.bias", "1.weight", "1.bias")}
        part |= {key: state[f"aggregator.mix.{i}.mix.{key}"] for key in ("3.weight", "3.bias")}
        centred = (x - x.mean(1, keepdim=True)) / (x.var(1, unbiased=False, keepdim=True) + 1e-5).sqrt()
        hidden = functional.relu((centred * part["0.weight"] + part["0.bias"]) @ part["1.weight"].T + part["1.bias"])
        x = x + hidden @ part["3.weight"].T + part["3.bias"]
    fewer = state["aggregator.channel_proj.weight"] @ x + state["aggregator.channel_proj.bias"][:, None]
    rows = fewer @ state["aggregator.row_proj.weight"].T + state["aggregator.row_proj.bias"]
    together = descriptor.describe(images)
    assert torch.allclose(together[0], rows.flatten() / rows.norm(), atol=1e-5)
    assert torch.allclose(descriptor.describe([images[1]])[0], together[1], atol=1e-6)


def test_mixvpr_refuses_other_weights(resnet18: nn.Sequential, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="not weights of MixNetwork"):
        built(published(resnet18, 4), tmp_path / "w.pth", "mixvpr")
