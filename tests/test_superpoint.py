import logging

import pytest
import torch
from published import CPU, plain, randomise
from torch import nn
from torch.nn import functional

from vpr.config import load, parse
from vpr.core import ConfigError
from vpr.local_features import LOCAL_EXTRACTORS, detection, superpoint, superpoint_fast
from vpr.local_features.detection import refine, score_map, strongest, suppress
from vpr.local_features.sampling import sample
from vpr.local_features.superpoint_fast import FastSuperPoint
from vpr.local_features.superpoint_network import SuperPointNetwork
from vpr.runtime.precision import arithmetic, dtype_of
from vpr.settings import Settings
from vpr.weights import WeightsError

SMALL = {"widths": (8, 8, 12, 16), "head": 16, "dim": 24}


def small(layout="v1", seed=0):
    return randomise(SuperPointNetwork(layout, **SMALL), seed, gain=1.5)


PUBLISHED = {"weights": "superpoint_v1", "keypoint_threshold": 0.005, "subpixel": False, "sampling": "published"}


def extractor(network, device=CPU, **settings):
    """As published, unless the settings say otherwise."""
    return superpoint.SuperPoint(network, "", superpoint.Settings(**PUBLISHED | settings), device)


def image(height, width, seed=0):
    """Blobs and noise, (1, H, W) uint8."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 1, height // 6 + 1, width // 6 + 1, generator=generator)
    smooth = functional.interpolate(coarse, size=(height, width), mode="bilinear")[0]
    return ((0.8 * smooth + 0.2 * torch.rand(1, height, width, generator=generator)) * 255).to(torch.uint8)


def unit(images):
    return images.float() / 255


# ---- the network


def test_parameters_of_the_published_sizes():
    assert sum(each.numel() for each in SuperPointNetwork().parameters()) == 1_300_865
    names = {
        f"conv{name}.{part}" for name in ("1a", "1b", "2a", "2b", "3a", "3b", "4a", "4b") for part in ("weight", "bias")
    }
    names |= {f"conv{head}.{part}" for head in ("Pa", "Pb", "Da", "Db") for part in ("weight", "bias")}
    assert set(SuperPointNetwork().state_dict()) == names


@torch.inference_mode()
@pytest.mark.parametrize("strip_bytes", [1, 20_000, 1 << 30])
@pytest.mark.parametrize("size", [(8, 8), (16, 40), (75, 61), (96, 32)])
@pytest.mark.parametrize("layout", ["v1", "open"])
def test_the_fast_form_is_the_same_function(monkeypatch, layout, size, strip_bytes):
    monkeypatch.setattr(superpoint_fast, "STRIP_BYTES", strip_bytes)
    network = small(layout)
    images = torch.rand(2, 1, *size, generator=torch.Generator().manual_seed(1))
    for ours, expected in zip(FastSuperPoint(network, CPU)(images), network(images), strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4)


@torch.inference_mode()
def test_the_network_is_the_one_of_the_paper():
    network, images = small(), unit(image(48, 64)[None])
    for ours, expected in zip(network(images), plain.superpoint_maps(network.state_dict(), images), strict=True):
        torch.testing.assert_close(ours, expected)


def test_gradients_reach_every_parameter():
    network = small("open").train()
    logits, coarse = network(unit(torch.stack([image(32, 32, 0), image(32, 32, 1)])))
    (logits.square().mean() + coarse.square().mean()).backward()
    # A bias before a ReLU and a BatchNorm matters; one directly before a BatchNorm does not.
    assert all(each.grad.abs().sum() > 0 for name, each in network.named_parameters() if name != "detector.1.conv.bias")


def gauss2():
    """The layers of pytorch-superpoint: convolution, BatchNorm, ReLU; under its names."""
    layers = nn.ModuleDict()
    before = 1
    for name, width in zip(
        ("inc.conv", "down1.mpconv.1", "down2.mpconv.1", "down3.mpconv.1"), SMALL["widths"], strict=True
    ):
        for place, inputs in ((0, before), (3, width)):
            layers[f"{name}.conv.{place}".replace(".", "/")] = nn.Conv2d(inputs, width, 3, padding=1)
            layers[f"{name}.conv.{place + 1}".replace(".", "/")] = nn.BatchNorm2d(width)
        before = width
    for head, out in (("P", 65), ("D", SMALL["dim"])):
        for place, inputs, outputs, size in (("a", before, SMALL["head"], 3), ("b", SMALL["head"], out, 1)):
            layers[f"conv{head}{place}"] = nn.Conv2d(inputs, outputs, size, padding=size // 2)
            layers[f"bn{head}{place}"] = nn.BatchNorm2d(outputs)
    return randomise(layers)


@torch.inference_mode()
def test_weights_of_pytorch_superpoint_are_converted():
    layers, images = gauss2(), unit(image(40, 56)[None])
    network = SuperPointNetwork()
    state = {key.replace("/", "."): value for key, value in layers.state_dict().items()}
    network.load_state_dict(network.convert_state_dict(state))

    steps = list(layers.values())
    x = images
    for i in range(0, 16, 2):
        x = steps[i + 1](steps[i](x)).relu()
        if i in (2, 6, 10):
            x = functional.max_pool2d(x, 2)
    for i, ours in zip((16, 20), network.eval()(images), strict=True):
        hidden = steps[i + 1](steps[i](x)).relu()
        torch.testing.assert_close(ours, steps[i + 3](steps[i + 2](hidden)), rtol=1e-4, atol=1e-4)

    del state["bnPa.running_var"]
    with pytest.raises(WeightsError, match=r"pytorch-superpoint, but without 'bnPa.running_var'"):
        network.convert_state_dict(state)


@pytest.mark.parametrize("layout", ["v1", "open"])
def test_weights_of_any_size_are_read(tmp_path, layout):
    network = small(layout)
    torch.save({"model_state_dict": network.state_dict()}, tmp_path / "mine.pth")
    method = superpoint.build(superpoint.Settings(weights=str(tmp_path / "mine.pth")), CPU)
    assert method.dim == 24
    assert len(method.weights) == 64
    torch.testing.assert_close(method.network(unit(image(40, 40)[None])), network(unit(image(40, 40)[None])))


def test_other_weights_are_refused(tmp_path):
    torch.save({"conv1a.weight": torch.zeros(8, 1, 3, 3)}, tmp_path / "other.pth")
    with pytest.raises(WeightsError, match="SuperPointNetwork"):
        superpoint.build(superpoint.Settings(weights=str(tmp_path / "other.pth")), CPU)


# ---- detection


def test_scores_of_a_cell_are_its_pixels_row_by_row():
    logits = torch.full((1, 65, 2, 3), -20.0)
    logits[0, 8 * 5 + 2, 1, 2] = 20  # row 5, column 2 of the cell in row 1, column 2
    scores = score_map(logits)[0]
    assert scores.shape == (16, 24)
    assert scores.argmax() == (8 + 5) * 24 + (16 + 2)


@pytest.mark.parametrize("radius", [0, 1, 4])
@pytest.mark.parametrize("levels", [3, 10, 1000])
def test_suppression_equals_the_plain_one_with_ties(radius, levels):
    scores = torch.randint(0, levels, (2, 30, 41), generator=torch.Generator().manual_seed(levels)).float() / levels
    expected = torch.stack([plain.suppress(each, radius) for each in scores])
    assert torch.equal(suppress(scores, radius), expected)
    assert torch.equal(detection._suppress_by_pooling(scores, radius), expected)


def test_a_plateau_survives_as_published():
    scores = torch.full((1, 9, 9), 0.5)
    assert torch.equal(suppress(scores, 4), scores)


def test_the_strongest_are_taken_within_the_border():
    scores = torch.zeros(1, 10, 12)
    scores[0, 1, 5], scores[0, 4, 4], scores[0, 5, 9], scores[0, 7, 2], scores[0, 7, 3] = 0.9, 0.3, 0.8, 0.2, 0.1
    places, found, counts = strongest(scores, threshold=0.1, border=2, most=2)
    assert places.tolist() == [[5 * 12 + 9, 4 * 12 + 4]]
    assert found.tolist() == [[pytest.approx(0.8), pytest.approx(0.3)]]
    assert counts.tolist() == [2]
    assert strongest(scores, threshold=0.1, border=2, most=0)[2].tolist() == [3]  # the threshold itself is not above it
    assert strongest(scores, threshold=0.1, border=6, most=0)[0].shape == (1, 0)


# ---- descriptors


def grid_sampled(coarse, points, sampling):
    height, width = coarse.shape[1:3]
    size = torch.tensor([width, height])
    if sampling == "published":
        grid, aligned = (points - 3.5) / (8 * size - 4.5) * 2 - 1, True
    else:
        grid, aligned = (points + 0.5) / (8 * size) * 2 - 1, False
    sampled = functional.grid_sample(coarse.permute(0, 3, 1, 2), grid[:, None], align_corners=aligned)[:, :, 0]
    return functional.normalize(sampled, dim=1).transpose(1, 2)


@pytest.mark.parametrize("sampling", ["published", "corrected"])
@pytest.mark.parametrize("size", [(5, 7), (1, 1), (2, 1)])
def test_sampling_equals_grid_sample(size, sampling):
    generator = torch.Generator().manual_seed(0)
    coarse = functional.normalize(torch.randn(2, *size, 6, generator=generator), dim=-1)
    points = torch.rand(2, 50, 2, generator=generator) * torch.tensor([8 * size[1] - 1, 8 * size[0] - 1])
    ours = sample(coarse, points, 8, sampling)
    torch.testing.assert_close(ours, grid_sampled(coarse, points, sampling), rtol=0, atol=2e-6)


def test_refined_points_are_centroids_of_their_surroundings():
    scores = torch.zeros(1, 20, 30)
    scores[0, 10, 10], scores[0, 10, 11] = 0.6, 0.2  # a quarter of a pixel to the right
    scores[0, 0, 0], scores[0, 2, 0] = 0.5, 0.5  # a pixel down, at the corner of the map
    scores[0, 19, 29] = 0.1
    scores[0, 10, 13] = 0.9  # three pixels away: not of the first point's surroundings
    found = refine(torch.tensor([[[10.0, 10.0], [0.0, 0.0], [29.0, 19.0]]]), scores)
    torch.testing.assert_close(found[0], torch.tensor([[10.25, 10.0], [0.0, 1.0], [29.0, 19.0]]))


@torch.inference_mode()
def test_points_between_pixels_stay_near_those_on_pixels():
    on, between = (extractor(small(), subpixel=subpixel).extract([image(96, 128)])[0] for subpixel in (False, True))
    assert 0 < float((between.keypoints - on.keypoints).abs().max()) <= 2
    assert torch.equal(on.scores, between.scores)


def test_at_the_centre_of_a_cell_only_corrected_sampling_gives_its_descriptor():
    coarse = functional.normalize(torch.randn(1, 6, 10, 8, generator=torch.Generator().manual_seed(0)), dim=-1)
    centre = torch.tensor([[[8 * 7 + 3.5, 8 * 4 + 3.5]]])
    torch.testing.assert_close(sample(coarse, centre, 8, "corrected")[0, 0], coarse[0, 4, 7])
    assert not torch.allclose(sample(coarse, centre, 8, "published")[0, 0], coarse[0, 4, 7], atol=0.05)


# ---- the method


@torch.inference_mode()
def test_features_equal_the_plain_procedure():
    network, picture = small(), image(64, 88)
    (found,) = extractor(network, max_keypoints=40).extract([picture])
    expected = plain.superpoint(network.state_dict(), unit(picture[None]), most=40)
    place = {tuple(point): i for i, point in enumerate(found.keypoints.tolist())}
    order = [place[tuple(point)] for point in expected.keypoints.tolist()]
    assert len(found) == len(expected.keypoints) == 40
    torch.testing.assert_close(found.scores[order], expected.scores)
    torch.testing.assert_close(found.descriptors[order], expected.descriptors.T, rtol=1e-4, atol=1e-5)
    assert (found.scores.diff() <= 0).all()


def test_features_do_not_depend_on_what_comes_together():
    method = extractor(small("open"), max_keypoints=30)
    pictures = [image(40, 48, 0), image(56, 40, 1), image(40, 48, 2), image(40, 48, 3).float() / 255, image(5, 48)]
    together = method.extract(pictures)
    for picture, found in zip(pictures, together, strict=True):
        (alone,) = method.extract([picture])
        assert found.image_size == alone.image_size == (picture.shape[2], picture.shape[1])
        for part in ("keypoints", "scores", "descriptors"):
            torch.testing.assert_close(getattr(found, part), getattr(alone, part), rtol=1e-5, atol=1e-6)
    assert method.extract([]) == []


def test_images_batched_on_a_gpu_are_grouped_by_size(monkeypatch):
    method = extractor(small())
    monkeypatch.setattr(superpoint, "PIXELS_TOGETHER", 2 * 40 * 48)
    monkeypatch.setattr(method, "device", torch.device("cuda"))
    shapes = [(40, 48), (56, 40), (40, 48), (40, 48)]
    assert method._groups([torch.zeros(1, *shape) for shape in shapes]) == [[0, 2], [3], [1]]


@pytest.mark.parametrize("size", [(7, 30), (8, 8), (1, 1), (9, 200)])
def test_tiny_images_have_few_points_or_none(size):
    (found,) = extractor(small()).extract([image(*size)])
    assert found.image_size == (size[1], size[0])
    assert found.descriptors.shape == (len(found), 24)
    assert len(found) == 0 or min(size) > 8


def test_contrast_is_a_standard_deviation():
    """By hand, after averaging 3 x 3; by pooling, as on a GPU, the same."""
    image = torch.rand(1, 1, 20, 30, generator=torch.Generator().manual_seed(0))
    smooth = functional.avg_pool2d(image, 3, stride=1)[0, 0]  # from row and column 1 on
    expected = smooth[5:14, 7:16].std(correction=0)
    found = detection.contrast(image)
    assert found.shape == (1, 20, 30) and float(found[0, 10, 12]) == pytest.approx(float(expected), rel=1e-4)
    pooled = detection._averaged(image, 3)
    pooled = (detection._averaged(pooled * pooled, 9) - detection._averaged(pooled, 9) ** 2).clamp_min(0).sqrt()[:, 0]
    torch.testing.assert_close(found, pooled, atol=1e-4, rtol=0)


@pytest.mark.parametrize("noise", [0, 3, 5])
def test_a_dark_flat_image_has_no_keypoint_by_the_shipped_weights(noise):
    """The weights by themselves have 1,024 in each, black or with a sensor's noise."""
    dark = torch.randn(1, 240, 320, generator=torch.Generator().manual_seed(0)) * noise + 20
    row = LOCAL_EXTRACTORS["superpoint"]
    counts = []
    for overrides in ([], ["local_features.min_contrast=0"]):
        chosen = load(Settings, None, overrides).local_features
        counts += [len(each) for each in row.build(chosen, CPU).extract([dark.clamp(0, 255).byte()])]
    assert counts == [0, 1024]


def test_a_constant_image_is_no_accident():
    (found,) = extractor(small(), max_keypoints=50).extract([torch.zeros(1, 64, 64, dtype=torch.uint8)])
    assert len(found) <= 50
    assert found.descriptors.isfinite().all()


def test_all_points_are_kept_without_a_cap_and_thresholds_bound_them():
    picture = image(64, 64)
    (every,) = extractor(small(), max_keypoints=0).extract([picture])
    (few,) = extractor(small(), max_keypoints=10).extract([picture])
    assert len(every) > 10
    torch.testing.assert_close(few.keypoints, every.keypoints[:10])
    assert every.scores.min() > 0.005
    assert every.keypoints.min() >= 4 and every.keypoints.max() < 60
    assert len(extractor(small(), keypoint_threshold=0.99).extract([picture])[0]) == 0


@pytest.mark.parametrize("cap", [25, 0])
def test_a_pyramid_keeps_the_strongest_points_of_all_scales(cap):
    method = extractor(small(), pyramid=[0.5, 0.1], max_keypoints=cap)
    pictures = [image(96, 120, 0), image(96, 120, 1), image(64, 64)]
    for picture, found in zip(pictures, method.extract(pictures), strict=True):
        height, width = picture.shape[1:]
        half = functional.interpolate(unit(picture[None]), (height // 2, width // 2), mode="bilinear", antialias=True)
        (whole,), (coarse,) = (extractor(small(), max_keypoints=0).extract([each]) for each in (picture, half[0]))
        scores = torch.cat([whole.scores, coarse.scores]).sort(descending=True, stable=True)
        kept = scores.indices[: cap or None]
        # Half a pixel more, for it is the pixels' edges that are scaled, not their centres.
        points = torch.cat([whole.keypoints, 2 * coarse.keypoints + 0.5])
        assert found.image_size == (width, height) and len(found) == len(kept) > 20
        torch.testing.assert_close(found.scores, scores.values[: cap or None])
        torch.testing.assert_close(found.keypoints, points[kept])
        torch.testing.assert_close(found.descriptors, torch.cat([whole.descriptors, coarse.descriptors])[kept])


def test_images_are_brought_to_size():
    picture = image(300, 1000)[0].numpy()
    assert extractor(small()).preprocess(picture).shape == (1, 192, 640)
    assert extractor(small(), longest_side=2000).preprocess(picture).shape == (1, 300, 1000)
    assert extractor(small(), size=(64, 48)).preprocess(picture).shape == (1, 48, 64)
    thumbnail = image(32, 64)[0].numpy()
    assert extractor(small()).preprocess(thumbnail).shape == (1, 120, 240)
    assert extractor(small(), shortest_side=0).preprocess(thumbnail).shape == (1, 32, 64)
    assert extractor(small(), shortest_side=0, longest_side=48).preprocess(thumbnail).shape == (1, 24, 48)


def test_weights_without_a_record_are_sampled_by_the_size_of_their_network():
    assert extractor(SuperPointNetwork(), sampling="auto").sampling == "published"
    assert extractor(small("v1"), sampling="auto").sampling == "corrected"
    for layout in ("v1", "open"):
        assert extractor(small(layout), sampling="auto").sampling == "corrected"
        assert extractor(small(layout), sampling="published").sampling == "published"


@torch.inference_mode()
def test_half_precision_stays_near():
    network, images = small("open"), torch.rand(1, 1, 40, 40, generator=torch.Generator().manual_seed(0))
    exact = FastSuperPoint(network, CPU)(images)
    for ours, expected in zip(FastSuperPoint(network, CPU, torch.bfloat16)(images), exact, strict=True):
        assert ours.dtype == torch.bfloat16
        assert (ours.float() - expected).abs().max() < 0.05 * expected.abs().max()


def test_a_cpu_without_half_precision_computes_in_float32(monkeypatch, caplog):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    with caplog.at_level(logging.WARNING):
        assert dtype_of("bf16", CPU) is torch.float32
    assert "no bf16 arithmetic" in caplog.text
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    assert dtype_of("bf16", CPU) is torch.bfloat16
    assert dtype_of("tf32", CPU) is torch.float32
    assert dtype_of("fp16", torch.device("cuda")) is torch.float16


@pytest.mark.parametrize("precision", ["fp32", "tf32"])
def test_how_a_gpu_rounds_is_set_for_a_while_only(precision):
    def switches():
        return torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32

    before = switches()
    with arithmetic(precision, torch.device("cuda")):
        assert switches() == (precision == "tf32",) * 2
    assert switches() == before


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("pyramid", [(), (0.5,)])
@pytest.mark.parametrize("layout", ["v1", "open"])
def test_a_gpu_gives_what_the_cpu_gives(layout, pyramid):
    pictures = [image(64, 80, 0), image(48, 48, 1), image(64, 80, 2)]
    expected = extractor(small(layout), pyramid=pyramid).extract(pictures)
    on_gpu = extractor(small(layout), torch.device("cuda"), pyramid=pyramid)
    for ours, theirs in zip(on_gpu.extract(pictures), expected, strict=True):
        assert set(map(tuple, ours.keypoints.tolist())) == set(map(tuple, theirs.keypoints.tolist()))
        torch.testing.assert_close(ours.scores, theirs.scores, rtol=1e-3, atol=1e-5)


def test_settings_are_in_the_table_and_strict():
    assert LOCAL_EXTRACTORS["superpoint"].settings is superpoint.Settings
    with pytest.raises(ConfigError, match="did you mean 'nms_radius'"):
        parse(superpoint.Settings, {"method": "superpoint", "nms_radios": 4})
