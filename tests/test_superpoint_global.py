import numpy as np
import pytest
import torch
from conftest import textured
from published import CPU, randomise
from safetensors.torch import save_file
from stores import extract_global, extract_local, extract_together
from torch.nn import functional

from vpr.build import build_extractor
from vpr.config import parse
from vpr.core import DataError, ImageError, Origin
from vpr.features.extraction import Extraction
from vpr.features.feature_set import FeatureFolders
from vpr.global_descriptors import superpoint_global
from vpr.global_descriptors.aggregation import (
    AGGREGATIONS,
    GemPooling,
    NetVladPooling,
    OptimalTransportPooling,
    sinkhorn,
)
from vpr.global_descriptors.superpoint_global import GlobalNetwork, SuperPointGlobal
from vpr.global_descriptors.whitening import Whitening
from vpr.local_features import superpoint
from vpr.local_features.superpoint_fast import FastBackbone
from vpr.local_features.superpoint_network import SuperPointNetwork
from vpr.settings import Settings
from vpr.weights import WeightsError, read_checkpoint
from vpr.weights.recognition import recognise

SMALL = {"widths": (8, 8, 12, 16), "head": 16, "dim": 24}
MAKE = {
    "gem": lambda: GemPooling(20, 10),
    "netvlad": lambda: NetVladPooling(20, 4, 6),
    "transport": lambda: OptimalTransportPooling(20, 4, 6, 8),
}
DIMS = {"gem": 10, "netvlad": 24, "transport": 32}


def backbone(layout="v1", seed=0):
    return randomise(SuperPointNetwork(layout, **SMALL), seed, gain=1.5)


def network(aggregation="gem", layout="v1", whitened=False, seed=0):
    torch.manual_seed(seed)
    made = randomise(GlobalNetwork(backbone(layout), (12, 16, 20), MAKE[aggregation]()), seed, gain=1.5)
    if whitened:
        random = np.random.default_rng(seed)
        made.whiten(Whitening(random.normal(size=(5, made.dim)), random.normal(size=5), np.ones(5)))
    return made


def descriptor(made, **settings):
    return SuperPointGlobal(made, "", superpoint_global.Settings(weights="none", **settings), CPU)


def extractor(layout="v1", seed=0, **settings):
    # The heads differ from those of the descriptor's own backbone; only the backbone has to be the same.
    own = SuperPointNetwork(layout, **SMALL)
    randomise(own, 7)
    own.load_state_dict({**own.state_dict(), **network("gem", layout, seed=seed).encoder.state_dict()})
    return superpoint.SuperPoint(own.eval(), "", superpoint.Settings(**settings), CPU)


def picture(seed, height=48, width=64):
    return torch.from_numpy(textured(seed, height, width).mean(2).astype(np.uint8))[None]


# ---- aggregations


def test_generalised_mean_by_hand():
    gem = GemPooling(2, 2)
    gem.mean.p.data.fill_(2.0)
    gem.linear.weight.data, gem.linear.bias.data = torch.eye(2), torch.zeros(2)
    maps = torch.tensor([[[[3.0, 1.0]], [[4.0, 2.0]]]])  # root mean squares: sqrt(5), sqrt(10)
    torch.testing.assert_close(gem(maps), functional.normalize(torch.tensor([[5.0, 10.0]]).sqrt(), dim=1))


def test_netvlad_equals_a_plain_loop():
    torch.manual_seed(0)
    pool, maps = NetVladPooling(3, 2, 4), torch.randn(1, 3, 2, 2)
    total = torch.zeros(2, 4)
    for place in maps[0].flatten(1).T:
        unit = functional.normalize(pool.reduce.weight.flatten(1) @ place + pool.reduce.bias, dim=0)
        for cluster, share in enumerate(pool.assign(unit).softmax(0)):
            total[cluster] += share * (unit - pool.centroids[cluster])
    expected = functional.normalize(functional.normalize(total, dim=1).flatten(), dim=0)
    torch.testing.assert_close(pool(maps)[0], expected)


def test_transport_gives_every_bin_its_part():
    scores = torch.zeros(1, 3, 6)
    scores[0, 0] = 8  # all like the first bin best
    shares = sinkhorn(scores, 50)
    torch.testing.assert_close(shares.sum(1), torch.ones(1, 6))
    torch.testing.assert_close(shares.sum(2), torch.full((1, 3), 2.0))
    assert scores.softmax(1).sum(2)[0, 0] > 5.9


def test_transport_passes_over_what_the_bin_takes():
    torch.manual_seed(0)
    pool = OptimalTransportPooling(2, 1, 3, 2)
    pool.score.weight.data = torch.tensor([[[[20.0]], [[-20.0]]]])
    pool.score.bias.data.zero_()
    maps = torch.tensor([[[[1.0, 0.0]], [[0.0, 1.0]]]])  # the first place is of the cluster, the second of the bin
    expected = functional.normalize(pool.reduce(maps)[0, :, 0, 0], dim=0) / 2**0.5
    torch.testing.assert_close(pool(maps)[0, 2:], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", AGGREGATIONS)
def test_aggregations_do_not_depend_on_company_or_order_of_places(name):
    torch.manual_seed(1)
    pool, maps = MAKE[name](), torch.rand(3, 20, 5, 7)
    vectors = pool(maps)
    assert vectors.shape == (3, DIMS[name])
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(3))
    torch.testing.assert_close(vectors[1:2], pool(maps[1:2]))
    torch.testing.assert_close(pool(maps.flip(3).transpose(2, 3)), vectors, rtol=1e-4, atol=1e-5)


# ---- files


@torch.inference_mode()
@pytest.mark.parametrize("whitened", [False, True])
@pytest.mark.parametrize("layout", ["v1", "open"])
@pytest.mark.parametrize("name", AGGREGATIONS)
def test_a_file_says_what_it_is(tmp_path, name, layout, whitened):
    made = network(name, layout, whitened)
    save_file(made.state_dict(), tmp_path / "mine.safetensors")
    method = superpoint_global.build(superpoint_global.Settings(weights=str(tmp_path / "mine.safetensors")), CPU)
    assert method.dim == (5 if whitened else DIMS[name])
    assert len(method.weights) == 64
    images = [picture(0), picture(1)]
    expected = made(torch.stack(images).float() / 255)
    torch.testing.assert_close(method.describe(images), expected, rtol=1e-4, atol=1e-4)

    found = recognise(read_checkpoint(tmp_path / "mine.safetensors"))
    assert found.layout.loads == ("superpoint_global",)
    assert not found.missing and not found.unused
    assert found.sizes["convolutions"] == 3


def test_other_weights_are_refused(tmp_path):
    save_file(backbone().state_dict(), tmp_path / "superpoint.safetensors")
    with pytest.raises(WeightsError, match="GlobalNetwork"):
        superpoint_global.build(superpoint_global.Settings(weights=str(tmp_path / "superpoint.safetensors")), CPU)


def test_images_are_brought_to_size():
    method = descriptor(network())
    assert method.preprocess(np.zeros((600, 1280), np.uint8)).shape == (1, 300, 640)
    assert method.preprocess(np.zeros((32, 64), np.uint8)).shape == (1, 120, 240)


# ---- one pass


def test_the_backbone_is_shared_only_where_nothing_would_change():
    method = descriptor(network())
    assert method.shares_backbone_with(extractor())
    assert not method.shares_backbone_with(extractor(longest_side=320))
    assert not method.shares_backbone_with(extractor(shortest_side=0))
    assert not method.shares_backbone_with(extractor(size=(64, 48)))
    assert not method.shares_backbone_with(extractor(precision="tf32"))
    assert not method.shares_backbone_with(object())
    assert descriptor(network(), size=(64, 48)).shares_backbone_with(extractor(size=(64, 48), longest_side=320))
    other = network()
    other.encoder.get_parameter("conv3b.bias").data[0] += 1e-6
    assert not descriptor(other).shares_backbone_with(extractor())


def test_a_batchnorm_at_the_end_of_the_backbone_is_part_of_it():
    other = network(layout="open")
    assert descriptor(other).shares_backbone_with(extractor("open"))
    other.encoder.get_parameter("backbone.3.1.bn.bias").data[0] += 1e-3
    assert not descriptor(other).shares_backbone_with(extractor("open"))


@pytest.mark.parametrize("layout", ["v1", "open"])
def test_one_pass_equals_two(layout):
    method, local = descriptor(network("transport", layout)), extractor(layout)
    images = [picture(0), picture(1, 40, 80), picture(2), picture(3)[:, :5, :5]]
    passes = []
    counted = local.network.backbone
    local.network.backbone = lambda x: passes.append(len(x)) or counted(x)
    local.network.backbone.channels = counted.channels
    found = local.extract_and(images, lambda maps: list(method.of_maps(maps)))
    assert sum(passes) == 3
    expected = method.describe(images)
    for i, (features, plain) in enumerate(zip(found, local.extract(images), strict=True)):
        assert torch.equal(features[0].keypoints, plain.keypoints)
        torch.testing.assert_close(features[0].descriptors, plain.descriptors)
        torch.testing.assert_close(features[1], expected[i], rtol=1e-4, atol=1e-5)
    assert not expected[3].any()


def test_together_or_apart_the_stores_are_the_same(image_set, tmp_path):
    method, local = descriptor(network("netvlad"), longest_side=96), extractor(longest_side=96)
    origins = tuple(Origin(kind, "settings") for kind in ("local features", "global descriptors"))
    how = Extraction(batch_size=2, shard_size=5)
    folders = tmp_path / "local", tmp_path / "global"
    extract_together(image_set, local, method, folders=folders, origins=origins, how=how)
    extract_local(image_set, local, tmp_path / "local alone", origins[0], how)
    extract_global(image_set, method, tmp_path / "global alone", origins[1], how)
    for name in ("local", "global"):
        shards = sorted((tmp_path / name).rglob("*.safetensors"))
        assert len(shards) == 3
        for shard in shards:
            other = tmp_path / f"{name} alone" / shard.relative_to(tmp_path / name)
            mine, alone = (read_checkpoint(each) for each in (shard, other))
            mine.pop("item_checksums", None)
            for key, value in mine.items():
                torch.testing.assert_close(value, alone[key], rtol=2e-3, atol=1e-4)


def test_an_interrupted_joint_extraction_writes_only_what_is_missing(image_set, tmp_path):
    method, local = descriptor(network(), longest_side=96), extractor(longest_side=96)
    origins = tuple(Origin(kind, "settings") for kind in ("local features", "global descriptors"))
    folders, how = (tmp_path / "local", tmp_path / "global"), Extraction(shard_size=4)
    extract_together(image_set, local, method, folders=folders, origins=origins, how=how)
    shards = {path: path.read_bytes() for folder in folders for path in folder.rglob("*.safetensors")}
    lost = next(folders[1].rglob("*.safetensors"))
    times = {path: path.stat().st_mtime_ns for path in shards if path != lost}
    lost.unlink()
    extract_together(image_set, local, method, folders=folders, origins=origins, how=how)
    assert {path: path.stat().st_mtime_ns for path in times} == times
    assert lost.read_bytes() == shards[lost]
    with pytest.raises(DataError, match="other settings"):
        other = (origins[0], Origin("global descriptors", "other"))
        extract_together(image_set, local, method, folders=folders, origins=other, how=how)


def test_the_pipeline_goes_through_a_shared_backbone_once(image_set, tmp_path, monkeypatch):
    save_file(network().state_dict(), tmp_path / "global.safetensors")
    own = SuperPointNetwork("v1", **SMALL)
    state = own.state_dict() | network().encoder.state_dict()
    save_file(state, tmp_path / "superpoint.safetensors")

    def passes(longest_side):
        local = {"method": "superpoint", "weights": str(tmp_path / "superpoint.safetensors"), "longest_side": 96}
        whole = {"method": "superpoint_global", "weights": str(tmp_path / "global.safetensors")}
        settings = parse(
            Settings,
            {
                "machine": {"device": "cpu"},
                "local_features": local,
                "global_descriptor": {**whole, "longest_side": longest_side},
            },
        )
        count, plain = [], FastBackbone.__call__
        with monkeypatch.context() as patch:
            patch.setattr(FastBackbone, "__call__", lambda self, x: count.append(len(x)) or plain(self, x))
            extractor = build_extractor(settings)
            found = extractor.extract(image_set, FeatureFolders.under(tmp_path / f"features {longest_side}"))
            whole_set = sum(count)
            extractor.single(image_set.path(3))
            with pytest.raises(ImageError):
                extractor.single(image_set.path(9))
        assert len(found.local_store) == 12 and found.global_store.matrix().shape == (12, 10)
        return whole_set, sum(count) - whole_set

    assert passes(96) == (11, 1)
    assert passes(80) == (22, 2)
