from __future__ import annotations

import pytest
import torch
from conftest import textured
from published import CPU, randomise
from torch import nn
from torch.nn import functional

from vpr.global_descriptors import place
from vpr.global_descriptors.efficientnet import STRIDE_16, EfficientNetLite0, SamePaddedConvolution
from vpr.global_descriptors.place import GhostVlad, LayoutBranch, PlaceDescriptor, PlaceNetwork, seen_size


def network(seed: int = 0) -> PlaceNetwork:
    torch.manual_seed(seed)
    made = randomise(PlaceNetwork(blocks=3, clusters=4, ghosts=1, width=2, dim=6), seed, gain=1.5)
    nn.init.normal_(made.aggregation.centroids)
    return made


# ---- EfficientNet-Lite0


def test_the_backbone_equals_the_published_code_on_its_names():
    published = pytest.importorskip("efficientnet_lite_pytorch").EfficientNet.from_name("efficientnet-lite0")
    torch.manual_seed(0)
    for module in published.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.1)
    published.eval()
    ours = EfficientNetLite0(blocks=16).eval()
    ours.load_state_dict(ours.folded(published.state_dict()))
    images = torch.randn(1, 3, 224, 224)
    with torch.inference_mode():
        maps = published._swish(published._bn0(published._conv_stem(images)))
        for block in published._blocks:
            maps = block(maps)
        torch.testing.assert_close(ours(images), maps, rtol=1e-3, atol=1e-3 * float(maps.abs().max()))


def test_stride_and_channels_of_the_usual_cut():
    backbone = EfficientNetLite0(STRIDE_16).eval()
    with torch.inference_mode():
        assert backbone(torch.zeros(1, 3, 96, 64)).shape == (1, 112, 6, 4)
        assert backbone(torch.zeros(1, 3, 33, 17)).shape == (1, 112, 3, 2)  # rounded up, as SAME does
    assert backbone.channels == 112
    with pytest.raises(ValueError, match="16 blocks, not 17"):
        EfficientNetLite0(17)


def test_with_a_stride_the_odd_pixel_is_padded_below_and_on_the_right():
    convolution = SamePaddedConvolution(1, 1, 3, 2)
    convolution.weight.data.fill_(1.0)
    convolution.bias.data.zero_()
    image = torch.zeros(1, 1, 4, 4)
    image[..., 0, 0] = 1
    assert convolution(image)[0, 0].tolist() == [[1, 0], [0, 0]]
    image = image.flip(2, 3)  # the last pixel is seen by the last window alone
    assert convolution(image)[0, 0].tolist() == [[0, 0], [0, 1]]


# ---- aggregation and layout


def test_vlad_equals_a_plain_loop():
    torch.manual_seed(1)
    pool, maps = GhostVlad(3, 2, 1), torch.randn(1, 3, 2, 2)
    nn.init.normal_(pool.centroids)
    total = torch.zeros(2, 3)
    for feature in maps[0].flatten(1).T:
        seen = functional.normalize(feature, dim=0)
        shares = (pool.assign.weight @ seen + pool.assign.bias).softmax(0)
        for cluster in range(2):
            total[cluster] += shares[cluster] * (seen - pool.centroids[cluster])
    sums = functional.normalize(total, dim=1).flatten()
    expected = functional.normalize(sums / (sums.abs() + place.ROOT_EPSILON).sqrt(), dim=0)
    torch.testing.assert_close(pool(maps)[0], expected)


def test_what_a_ghost_takes_changes_nothing():
    pool = GhostVlad(2, 1, 1)
    nn.init.constant_(pool.centroids, 0.5)
    with torch.no_grad():
        pool.assign.weight.copy_(torch.tensor([[100.0, 0.0], [-100.0, 0.0]]))  # by the sign of the first channel
        pool.assign.bias.zero_()
    maps = torch.tensor([[1.0, 2.0, 1.0], [2.0, 1.0, 0.0]])
    bars = torch.tensor([[-1.0, -1.0], [0.0, 5.0 / 4]])
    both = torch.cat([maps, bars], dim=1)
    torch.testing.assert_close(pool(maps[None, :, None]), pool(both[None, :, None]), atol=1e-5, rtol=0)
    assert not pool(bars[None, :, None]).isnan().any()


def test_the_layout_knows_where_features_are_and_vlad_does_not():
    torch.manual_seed(0)
    layout, pool = LayoutBranch(5, 3), GhostVlad(5, 4, 1)
    nn.init.normal_(pool.centroids)
    maps = torch.randn(1, 5, 12, 16)
    mirrored = maps.flip(3)
    assert layout(maps).shape == (1, 6 * 8 * 3)
    torch.testing.assert_close(pool(maps), pool(mirrored))
    assert not torch.allclose(layout(maps), layout(mirrored), atol=0.05)
    torch.testing.assert_close(layout(maps).norm(dim=1), torch.ones(1))


def test_sizes_are_read_off_the_weights():
    made = network()
    read = PlaceNetwork.from_state_dict(made.state_dict())
    read.load_state_dict(made.state_dict())
    assert (read.dim, len(read.backbone.blocks), len(read.aggregation.centroids)) == (6, 3, 4)
    assert isinstance(PlaceNetwork.from_state_dict({}), PlaceNetwork)


@pytest.mark.parametrize(
    ("size", "seen"),
    [
        ((640, 480), (320, 240)),
        ((480, 640), (240, 320)),
        ((64, 32), (320, 160)),
        ((1, 300), (16, 320)),
        ((7, 7), (320, 320)),
    ],
)
def test_images_are_brought_to_one_longest_side(size, seen):
    assert seen_size(*size, 320) == seen
    method = PlaceDescriptor(network(), "", place.Settings(), CPU)
    prepared = method.preprocess(textured(0, size[1], size[0]))
    assert prepared.shape == (3, seen[1], seen[0]) and prepared.dtype == torch.uint8


def test_half_precision_of_the_backbone_is_close():
    image = textured(3, 96, 128)
    made = [PlaceDescriptor(network(), "", place.Settings(precision=each), CPU) for each in ("fp32", "bf16")]
    one, other = (each.describe([each.preprocess(image)]) for each in made)
    assert float((one * other).sum()) > 0.98
