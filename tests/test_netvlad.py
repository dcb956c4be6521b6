"""NetVLAD on VGG16, from torch checkpoints and from MATLAB's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import textured
from netvlad_weights import CPU, random_state, save_struct, saved
from torch import Tensor

from vpr.config import load
from vpr.core import ConfigError
from vpr.global_descriptors import GLOBAL_DESCRIPTORS, netvlad, netvlad_mat
from vpr.global_descriptors.netvlad import NetVlad, Pool
from vpr.global_descriptors.networks import IMAGENET, Levels, equal_sizes, pillow_resize, to_tensor
from vpr.settings import Settings
from vpr.weights import WeightsError, sha256_of

CLUSTERS, DIM = 4, 6


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    return random_state(CLUSTERS, DIM)


@pytest.fixture(scope="module")
def small(state: dict[str, Tensor], tmp_path_factory: pytest.TempPathFactory) -> NetVlad:
    path = saved(state, tmp_path_factory.mktemp("weights") / "small.pth.tar")
    return netvlad.build(netvlad.Settings(weights=path, height=64, width=96), CPU)


def plain_vlad(features: Tensor, weight: Tensor, centroids: Tensor) -> Tensor:
    """(512, h, w) to (K, 512): the definition, feature by feature and cluster by cluster."""
    total = torch.zeros_like(centroids)
    for row in range(features.shape[1]):
        for column in range(features.shape[2]):
            x = features[:, row, column] / features[:, row, column].norm()
            shares = (weight[:, :, 0, 0] @ x).softmax(0)
            for k in range(len(centroids)):
                total[k] += shares[k] * (x - centroids[k])
    return total


def test_pool_is_the_normalised_sum_of_residuals(small: NetVlad) -> None:
    features = torch.randn(2, 512, 3, 5, generator=torch.Generator().manual_seed(1))
    pool = small.network.pool
    with torch.inference_mode():
        pooled = pool(*pool.assign(features))
        vectors = small.network.flatten(pooled)
    for one, vector, image in zip(pooled, vectors, features, strict=True):
        total = plain_vlad(image, pool.conv.weight, pool.centroids).detach()
        intra = total / total.norm(dim=1, keepdim=True)
        assert torch.allclose(one, intra, atol=1e-5)
        assert torch.allclose(vector, intra.flatten() / intra.norm(), atol=1e-5)  # cluster after cluster


def test_flatten_in_matlabs_order(small: NetVlad) -> None:
    residuals = torch.arange(6.0).reshape(1, 2, 3) + 1
    ours = small.network.flatten(residuals)
    small.network.clusters_first = False
    theirs = small.network.flatten(residuals)
    small.network.clusters_first = True
    assert torch.allclose(ours * residuals.norm(), torch.tensor([[1.0, 2, 3, 4, 5, 6]]))
    assert torch.allclose(theirs * residuals.norm(), torch.tensor([[1.0, 4, 2, 5, 3, 6]]))


def test_a_bias_in_the_assignment_is_used() -> None:
    pool = Pool(2, bias=True)
    torch.nn.init.zeros_(pool.conv.weight)
    pool.conv.bias.data = torch.tensor([0.0, 1.0986123])
    _, shares = pool.assign(torch.ones(1, 512, 1, 1))
    assert torch.allclose(shares.flatten(), torch.tensor([0.25, 0.75]))


def test_describe_is_the_same_singly_and_in_a_batch(small: NetVlad) -> None:
    images = [small.preprocess(textured(seed)) for seed in range(3)]
    together = small.describe(images)
    assert together.shape == (3, DIM) and small.dim == DIM
    assert torch.allclose(together.norm(dim=1), torch.ones(3), atol=1e-6)
    for image, row in zip(images, together, strict=True):
        assert torch.allclose(small.describe([image])[0], row, atol=1e-6)
    assert together[0] @ together[1] < 0.999
    assert small.describe([]).shape == (0, DIM)


def test_a_blank_image_has_a_descriptor(small: NetVlad) -> None:
    for level in (0, 255):
        vector = small.describe([small.preprocess(np.full((40, 40, 3), level, np.uint8))])
        assert torch.isfinite(vector).all() and torch.allclose(vector.norm(), torch.ones(()), atol=1e-5)


@pytest.mark.parametrize("size", [(64, 96), (480, 640), (31, 1000)])
def test_every_image_is_brought_to_one_size(small: NetVlad, size: tuple[int, int]) -> None:
    image = small.preprocess(textured(0, *size))
    assert image.shape == (3, 64, 96) and image.dtype == torch.uint8


def test_half_precision_is_near(small: NetVlad, state: dict[str, Tensor], tmp_path: Path) -> None:
    path = saved(state, tmp_path / "w.pth")
    half = netvlad.build(netvlad.Settings(weights=path, height=32, width=48, precision="bf16"), CPU)
    half.backbone.dtype = torch.bfloat16  # also on a CPU that only emulates it
    half.backbone.network.to(torch.bfloat16)
    full = netvlad.build(netvlad.Settings(weights=path, height=32, width=48), CPU)
    image = full.preprocess(textured(2))
    assert (half.describe([image]) @ full.describe([image]).T).item() > 0.99


@pytest.mark.parametrize("layout", ["module", "bare", "without_pca"])
def test_published_layouts(state: dict[str, Tensor], tmp_path: Path, layout: str, small: NetVlad) -> None:
    """DataParallel's names, a bare dictionary, and pytorch-NetVlad's checkpoint, which has no PCA."""
    path = tmp_path / "weights.pth"
    if layout == "module":
        torch.save({"state_dict": {key.replace(".", ".module.", 1): value for key, value in state.items()}}, path)
    elif layout == "bare":
        torch.save(state, path)
    else:
        torch.save({"state_dict": {key: value for key, value in state.items() if "WPCA" not in key}}, path)
    loaded = netvlad.build(netvlad.Settings(weights=str(path), height=64, width=96), CPU)
    assert loaded.weights == sha256_of(path)
    assert loaded.dim == (CLUSTERS * 512 if layout == "without_pca" else DIM)
    image = small.preprocess(textured(1))
    if layout != "without_pca":
        assert torch.equal(loaded.describe([image]), small.describe([image]))
    assert torch.allclose(loaded.describe([image]).norm(), torch.ones(()), atol=1e-5)


def test_weights_of_something_else_are_refused_by_key(state: dict[str, Tensor], tmp_path: Path) -> None:
    wrong = {key: value for key, value in state.items() if key != "pool.centroids"} | {"extra": torch.zeros(1)}
    with pytest.raises(WeightsError, match=r"missing 1 keys \(pool.centroids\); not used 1 keys \(extra\)"):
        netvlad.build(netvlad.Settings(weights=saved(wrong, tmp_path / "wrong.pth")), CPU)


def test_equal_sizes_keeps_track_of_the_places() -> None:
    images = [torch.full((3, side, 4), place, dtype=torch.uint8) for place, side in enumerate([2, 3, 2, 3, 2])]
    found = {tuple(places): batch for places, batch in equal_sizes(images, torch.device("meta"))}
    assert set(found) == {(0, 2, 4), (1, 3)} and found[0, 2, 4].shape == (3, 3, 2, 4)
    assert [places for places, _ in equal_sizes(images, CPU)] == [[0], [1], [2], [3], [4]]


def test_levels_by_hand() -> None:
    image = to_tensor(np.array([[[255, 0, 51]]], np.uint8))[None]
    mean, deviation = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    assert np.allclose(IMAGENET.normalise(image).flatten(), (np.array([1, 0, 0.2]) - mean) / deviation, atol=1e-6)


def test_a_image_of_the_right_size_is_left_alone() -> None:
    image = textured(0, 20, 30)
    assert pillow_resize(image, (30, 20)) is image
    assert pillow_resize(image, (15, 40)).shape == (40, 15, 3)


@pytest.mark.parametrize("key", ["height=15", "width=0", "precision=int3", "sizes=3"])
def test_senseless_settings_are_refused(key: str) -> None:
    name = key.partition("=")[0]
    with pytest.raises(ConfigError, match=name):
        load(Settings, None, ["global_descriptor.method=netvlad", f"global_descriptor.{key}"])


def test_the_table_knows_them() -> None:
    assert GLOBAL_DESCRIPTORS["netvlad"].build is netvlad.build
    assert GLOBAL_DESCRIPTORS["netvlad_mat"].build is netvlad_mat.build


# ---------------------------------------------------------------- MATLAB


def matlabs(state: dict[str, Tensor]) -> dict[str, np.ndarray]:
    """Our state under MATLAB's names, axes, signs and order of the vector."""
    tensors = {}
    for place in netvlad_mat.CONVOLUTIONS:
        tensors[f"layers.{place}.weights.0"] = state[f"encoder.{place}.weight"].permute(2, 3, 1, 0).numpy()
        tensors[f"layers.{place}.weights.1"] = state[f"encoder.{place}.bias"].numpy()
    tensors["layers.30.weights.0"] = state["pool.conv.weight"][:, :, 0, 0].T.numpy()
    tensors["layers.30.weights.1"] = -state["pool.centroids"].T.numpy()
    by_cluster = state["WPCA.0.weight"].reshape(DIM, CLUSTERS, 512)
    tensors["layers.33.weights.0"] = by_cluster.transpose(1, 2).reshape(DIM, -1).T[None, None].numpy()
    tensors["layers.33.weights.1"] = state["WPCA.0.bias"].numpy()
    return tensors


@pytest.fixture(scope="module")
def struct(state: dict[str, Tensor], tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_struct(tmp_path_factory.mktemp("mat") / "net.mat", matlabs(state), np.array([120.0, 110.0, 100.0]))


def test_matlabs_file_gives_the_same_network(struct: str, small: NetVlad) -> None:
    loaded = netvlad_mat.build(netvlad_mat.Settings(weights=struct), CPU)
    assert loaded.weights == sha256_of(Path(struct)) and loaded.dim == DIM
    assert loaded.backbone.levels == Levels((120, 110, 100), (1, 1, 1))
    loaded.backbone.levels = IMAGENET  # what the other one takes out
    image = small.preprocess(textured(5))
    assert torch.allclose(loaded.describe([image]), small.describe([image]), atol=1e-5)


def test_matlabs_images_keep_their_shape(struct: str) -> None:
    loaded = netvlad_mat.build(netvlad_mat.Settings(weights=struct, whiten=False, longest_side=100), CPU)
    shapes = [tuple(loaded.preprocess(textured(0, *size)).shape) for size in [(80, 90), (300, 200), (60, 400)]]
    assert shapes == [(3, 80, 90), (3, 100, 67), (3, 16, 100)]  # at least one feature high
    images = [loaded.preprocess(textured(seed, 60 + 9 * seed, 70)) for seed in range(3)]
    together = loaded.describe(images)
    assert together.shape == (3, CLUSTERS * 512)
    assert torch.allclose(together[1], loaded.describe([images[1]])[0], atol=1e-6)


def test_a_torch_checkpoint_is_no_matlab_file(state: dict[str, Tensor], tmp_path: Path) -> None:
    path = saved(state, tmp_path / "w.pth.tar")
    with pytest.raises(WeightsError, match=r"not a MATLAB file of NetVLAD on VGG16: .*layers.30.weights.0"):
        netvlad_mat.build(netvlad_mat.Settings(weights=path), CPU)
