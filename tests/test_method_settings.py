"""Every setting of every network changes the answer, and as its paper says.

A row of a table names a setting, another value for it, and what then holds of the answers before and after.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import test_lightglue
import test_superglue
import torch
from conftest import textured
from published import CPU, alike, plain, random_features
from small_methods import build_small
from torch import Tensor

from vpr.core import LocalFeatures, Matches
from vpr.global_descriptors import GLOBAL_DESCRIPTORS
from vpr.global_descriptors.patches import PatchFeatures, PatchGrid
from vpr.local_features import LOCAL_EXTRACTORS
from vpr.local_features.detection import contrast
from vpr.local_features.settings import SHARED
from vpr.matchers import MATCHERS
from vpr.matchers.lightglue_network import LightGlueNetwork
from vpr.matchers.points import stack
from vpr.rerank.patch_netvlad import PatchReranker
from vpr.rerank.patch_netvlad import Settings as Rerank

# That weights matter is what the golden tests show; half precision is tested where a network is.
COMMON = {"method", "weights", "precision"}


def fields(table: Any, name: str) -> set[str]:
    return set(table[name].settings.model_fields) - COMMON


# ---------------------------------------------------------------- SuperPoint

IMAGE = np.ascontiguousarray(textured(0, 120, 160)[..., 1])
EVERY = {"subpixel": False, "max_keypoints": 0, "nms_radius": 4, "border": 4, "keypoint_threshold": 0.001}
EVERY |= {"sampling": "published"}


def rows(features: LocalFeatures, keep: Tensor) -> list[list[float]]:
    return features.keypoints[keep].tolist()


def separation(features: LocalFeatures) -> float:
    """The smallest distance of two keypoints along the axis on which they are further apart."""
    apart = torch.cdist(features.keypoints, features.keypoints, p=torch.inf)
    return float(apart.fill_diagonal_(torch.inf).min())


def within(features: LocalFeatures, border: int) -> Tensor:
    width, height = features.image_size
    low, high = features.keypoints, torch.tensor([width - 1, height - 1]) - features.keypoints
    return ((low >= border) & (high >= border)).all(1)


def moved(before: LocalFeatures, after: LocalFeatures) -> bool:
    return torch.equal(before.scores, after.scores) and 0 < float((after.keypoints - before.keypoints).abs().max()) <= 3


def textured_only(before: LocalFeatures, after: LocalFeatures) -> bool:
    """With 40 grey levels of contrast asked for, some keypoints are left, and all have it."""
    x, y = after.keypoints.long().unbind(1)
    deviation = contrast(torch.from_numpy(IMAGE)[None, None].float())[0]
    return 0 < len(after) < len(before) and bool((deviation[y, x] >= 40).all())


SUPERPOINT: dict[str, tuple[Any, Callable[[LocalFeatures, LocalFeatures], bool]]] = {
    "keypoint_threshold": (
        0.016,
        lambda a, b: 0 < len(b) < len(a) and rows(b, b.scores > 0) == rows(a, a.scores > 0.016),
    ),
    "min_contrast": (40.0, textured_only),
    "nms_radius": (9, lambda a, b: separation(a) == 5 and separation(b) == 10),
    "border": (20, lambda a, b: 0 < len(b) < len(a) and rows(b, b.scores > 0) == rows(a, within(a, 20))),
    "max_keypoints": (7, lambda a, b: len(b) == 7 and rows(b, b.scores > 0) == rows(a, a.scores > 0)[:7]),
    "pyramid": (
        (0.5,),
        lambda a, b: len(b) > len(a) and {*map(tuple, a.keypoints.tolist())} < {*map(tuple, b.keypoints.tolist())},
    ),
    "subpixel": (True, moved),
    "sampling": (
        "corrected",
        lambda a, b: (
            torch.equal(a.keypoints, b.keypoints) and not torch.allclose(a.descriptors, b.descriptors, atol=1e-3)
        ),
    ),
    "longest_side": (80, lambda a, b: (a.image_size, b.image_size) == ((160, 120), (80, 60))),
    "shortest_side": (150, lambda a, b: (a.image_size, b.image_size) == ((160, 120), (200, 150))),
    "size": ((96, 88), lambda a, b: (a.image_size, b.image_size) == ((160, 120), (96, 88))),
}


def test_every_setting_of_superpoint_is_here() -> None:
    shared = set(SHARED)  # test_dropping.py
    assert SUPERPOINT.keys() == fields(LOCAL_EXTRACTORS, "superpoint") - shared


@pytest.mark.parametrize("name", SUPERPOINT)
def test_settings_of_superpoint(tmp_path: Path, name: str) -> None:
    value, holds = SUPERPOINT[name]
    found = []
    for settings in (EVERY, EVERY | {name: value}):
        method = build_small(LOCAL_EXTRACTORS, "superpoint", tmp_path, **settings)
        found += method.extract([method.preprocess(IMAGE)])
    assert holds(*found)


# ---------------------------------------------------------------- SuperGlue and LightGlue

QUERY = random_features(60, 32, seed=0)
CANDIDATE = alike(QUERY, 55, seed=1, noise=0.02)
NEARBY = {"search_expansion": 16.0, "min_inliers": 4, "tolerance": 4.0, "accept_threshold": 1.0}


def scored(matches: Matches) -> dict[tuple[int, int], float]:
    return {(int(i), int(j)): float(score) for (i, j), score in zip(matches.pairs, matches.scores, strict=True)}


def above(threshold: float) -> Callable[[Matches, Matches], bool]:
    """The second answer is the first's matches above a threshold, with the same scores; there are such and others."""

    def holds(every: Matches, some: Matches) -> bool:
        expected = {pair: score for pair, score in scored(every).items() if score > threshold}
        return 0 < len(some) < len(every) and scored(some) == expected

    return holds


def displaced(matches: Matches) -> Tensor:
    """How far each match lies from the truth: in the other view, keypoints of one place lie 3 pixels further."""
    shift = CANDIDATE.keypoints[matches.pairs[:, 1]] - QUERY.keypoints[matches.pairs[:, 0]]
    return (shift - 3).norm(dim=1)


def more_agree(every: Matches, some: Matches) -> bool:
    """Right matches are not lost, wrong ones do not become more, and the answer is another."""
    (right, wrong), (right_then, wrong_then) = (
        (int((displaced(each) < 4).sum()), int((displaced(each) >= 4).sum())) for each in (every, some)
    )
    return scored(every) != scored(some) and right_then >= right and wrong_then <= wrong


def by_plain_superglue(iterations: int) -> Callable[[Matches, Matches], bool]:
    def holds(_: Matches, found: Matches) -> bool:
        network = test_superglue.small()
        sides = [plain.Points(each.keypoints, each.scores, each.descriptors.T) for each in (QUERY, CANDIDATE)]
        sizes = (QUERY.image_size, CANDIDATE.image_size)
        scores = plain.superglue(network.state_dict(), *sides, sizes, iterations)[:-1, :-1].detach()
        best = {(i, int(j)): float(scores[i, j].exp()) for i, j in enumerate(scores.argmax(1))}
        expected = {pair: score for pair, score in best.items() if int(scores[:, pair[1]].argmax()) == pair[0]}
        ours = scored(found)
        return ours.keys() == expected.keys() and all(abs(ours[pair] - expected[pair]) < 1e-4 for pair in ours)

    return holds


SUPERGLUE: dict[str, tuple[dict[str, Any], Any, Callable[[Matches, Matches], bool]]] = {
    "sinkhorn_iterations": ({"match_threshold": 0.0}, 2, by_plain_superglue(2)),
    "match_threshold": ({"match_threshold": 0.0}, 0.5, above(0.5)),
    "agreement": ({"match_threshold": 0.0}, NEARBY, more_agree),
}


def test_every_setting_of_superglue_is_here() -> None:
    assert SUPERGLUE.keys() == fields(MATCHERS, "superglue")


@pytest.mark.parametrize("name", SUPERGLUE)
def test_settings_of_superglue(tmp_path: Path, name: str) -> None:
    base, value, holds = SUPERGLUE[name]
    pair = [build_small(MATCHERS, "superglue", tmp_path, **each) for each in (base, base | {name: value})]
    assert holds(*(method.match(QUERY, [CANDIDATE])[0] for method in pair))


def test_more_sinkhorn_iterations_change_the_scores(tmp_path: Path) -> None:
    few, many = (build_small(MATCHERS, "superglue", tmp_path, sinkhorn_iterations=count) for count in (1, 40))
    one, other = (method.match(QUERY, [CANDIDATE])[0] for method in (few, many))
    assert scored(one) != scored(other)


@torch.inference_mode()
def plain_adaptive(
    network: LightGlueNetwork, depth: float, width: float, prune_above: int
) -> tuple[int, dict[tuple[int, int], float], bool]:
    """The layer after which it stops, the matches, and whether another count of keypoints would not have stopped it.

    The paper's procedure for one pair, with the modules of the network. Keypoints left out count as confident.
    """
    batches = [stack([each], network.reach, CPU) for each in (QUERY, CANDIDATE)]
    x = [network.input_proj(each.descriptors) for each in batches]
    places = [each.points for each in batches]
    index = [torch.arange(each.shape[1]) for each in x]
    given, other_count = sum(each.shape[1] for each in x), False
    for i, (layer, assign, confidence) in enumerate(network.parts()):
        x = [layer.self_attn(each, network.posenc(place), None) for each, place in zip(x, places, strict=True)]
        x = list(layer.cross_attn(*x, None, None))
        if confidence is None:
            break
        threshold = 0.8 + 0.1 * np.exp(-4.0 * i / len(network.transformers))
        confident = [confidence(each)[0] for each in x]
        unsure = sum(int((each < threshold).sum()) for each in confident)
        if depth > 0 and 1 - unsure / given > depth:
            other_count |= 1 - unsure / sum(each.shape[1] for each in x) <= depth
            break
        if width > 0:
            for side in (0, 1):
                matchable = assign.matchability(x[side])[0, :, 0].sigmoid() > 1 - width
                keep = matchable | (confident[side] <= threshold) if depth > 0 else matchable
                if x[side].shape[1] > prune_above:
                    x[side], places[side], index[side] = x[side][:, keep], places[side][:, keep], index[side][keep]
    scores = assign(*x, None, None)[0, :-1, :-1].exp()
    mutual = [(k, int(j)) for k, j in enumerate(scores.argmax(1)) if int(scores[:, j].argmax()) == k]
    return i + 1, {(int(index[0][k]), int(index[1][j])): float(scores[k, j]) for k, j in mutual}, other_count


DEFAULT = {"depth_confidence": -1.0, "width_confidence": -1.0, "filter_threshold": 0.0, "prune_above": 0}
LIGHTGLUE: dict[str, list[dict[str, Any]]] = {
    "depth_confidence": [{"depth_confidence": value} for value in (0.3, 0.6, 0.8, 0.95)],
    "width_confidence": [
        *({"width_confidence": value} for value in (0.7, 0.9, 0.99)),
        *({"width_confidence": w, "depth_confidence": d} for w in (0.6, 0.8) for d in (0.6, 0.7, 0.95)),
    ],
    "prune_above": [{"width_confidence": 0.9, "prune_above": value} for value in (56, 100)],
}


@pytest.mark.parametrize("name", LIGHTGLUE)
def test_adaptive_lightglue_is_the_papers(tmp_path: Path, name: str) -> None:
    network, answers, other_counts = test_lightglue.small(), [], []
    for confidence in network.token_confidence:
        confidence.token[0].bias.data.fill_(1.5)  # so that some keypoints are left out before the others are confident
    torch.save(network.state_dict(), tmp_path / "confident.pth")
    row = MATCHERS["lightglue"]
    for settings in (DEFAULT, *({**DEFAULT, **each} for each in LIGHTGLUE[name])):
        method = row.build(row.settings(weights=str(tmp_path / "confident.pth"), **settings), CPU)
        ours = scored(method.match(QUERY, [CANDIDATE])[0])
        depth, width = settings["depth_confidence"], settings["width_confidence"]
        layer, expected, other_count = plain_adaptive(network, depth, width, settings["prune_above"])
        assert ours.keys() == expected.keys()
        assert all(abs(ours[pair] - expected[pair]) < 1e-4 for pair in ours)
        answers.append((layer, frozenset(ours)))
        other_counts.append(other_count)
    assert len(set(answers)) > 1
    if name == "width_confidence":
        assert any(other_counts), "no case tells the keypoints that are left from those of the input"


LIGHTGLUE_ANSWERS: dict[str, tuple[Any, Callable[[Matches, Matches], bool]]] = {
    "filter_threshold": (0.2, above(0.2)),
    "agreement": (NEARBY, more_agree),
}


def test_every_setting_of_lightglue_is_here() -> None:
    assert LIGHTGLUE.keys() | LIGHTGLUE_ANSWERS.keys() == fields(MATCHERS, "lightglue")


@pytest.mark.parametrize("name", LIGHTGLUE_ANSWERS)
def test_settings_of_lightglue(tmp_path: Path, name: str) -> None:
    value, holds = LIGHTGLUE_ANSWERS[name]
    pair = [build_small(MATCHERS, "lightglue", tmp_path, **each) for each in (DEFAULT, DEFAULT | {name: value})]
    assert holds(*(method.match(QUERY, [CANDIDATE])[0] for method in pair))


# ---------------------------------------------------------------- Patch-NetVLAD's re-ranking


def grid_features(grid: PatchGrid, order: Tensor) -> PatchFeatures:
    """Patches that are told apart without doubt, in some order."""
    return PatchFeatures((grid,), (torch.eye(len(grid))[order],), (640, 480))


def neighbours_exchanged(grid: PatchGrid) -> Tensor:
    """An order in which some patches have changed places with the one to their right."""
    order = torch.arange(len(grid)).view(grid.rows, grid.columns).clone()
    order[::3, 0:2] = order[::3, 0:2].flip(1)
    return order.flatten()


@pytest.mark.parametrize("stride", [1, 2, 3])
def test_the_threshold_of_ransac_is_one_and_a_half_strides(stride: int) -> None:
    """So that a patch that moved by one place is an inlier, whatever the stride."""
    grid = PatchGrid.over(30, 40, 5, stride)
    order = neighbours_exchanged(grid)
    reranker = PatchReranker(Rerank(patch_weights=(1.0,)), CPU)
    pair = reranker.pair(grid_features(grid, torch.arange(len(grid))), grid_features(grid, order))
    assert pair.scores.tolist() == [1.0]


@pytest.mark.parametrize("scoring", ["ransac", "spatial"])
@pytest.mark.parametrize("as_published", [False, True])
def test_as_published_repeats_the_places_of_the_published_code(scoring: str, as_published: bool) -> None:
    grid = PatchGrid.over(30, 40, 5, 2)
    order = torch.randperm(len(grid), generator=torch.Generator().manual_seed(0))
    order = torch.where(torch.arange(len(grid)) % 3 > 0, torch.arange(len(grid)), order)
    query, other = grid_features(grid, torch.arange(len(grid))), grid_features(grid, order.argsort().argsort())
    reranker = PatchReranker(Rerank(patch_weights=(1.0,), scoring=scoring, as_published=as_published), CPU)
    cells, _ = grid.positions(as_published)
    pairs = reranker.pair(query, other).matches.pairs
    if scoring == "spatial":
        shifts = (cells[pairs[:, 0]] - cells[pairs[:, 1]]).double()
        deviation = (shifts - shifts.mean(0)).abs()
        expected = float(((cells.amax(0) - deviation) ** 2).sum()) / len(grid)
        assert reranker.pair(query, other).scores[0] == pytest.approx(expected)
    strict, published = (
        PatchReranker(Rerank(patch_weights=(1.0,), scoring=scoring, as_published=each), CPU).pair(query, other).scores
        for each in (False, True)
    )
    assert strict[0] != published[0]


def test_settings_of_patches_change_grids_and_scores(tmp_path: Path) -> None:
    base = {"patch_sizes": (1, 2), "strides": (1, 1)}
    sizes = []
    for more in ({}, {"patch_sizes": (2, 3)}, {"strides": (1, 2)}, {"height": 128}, {"width": 160}):
        model = build_small(GLOBAL_DESCRIPTORS, "patch_netvlad", tmp_path, **base | more)
        _, found = model.describe_patches([model.preprocess(textured(0))])[0]
        sizes.append((found.image_size, [len(each) for each in found.descriptors]))
    assert sizes == [
        ((128, 96), [48, 35]),
        ((128, 96), [35, 24]),
        ((128, 96), [48, 12]),
        ((128, 128), [64, 49]),
        ((160, 96), [60, 45]),
    ]


def test_weights_of_patch_sizes_weigh_them() -> None:
    grids = (PatchGrid.over(6, 8, 2, 1), PatchGrid.over(6, 8, 3, 1))
    query = PatchFeatures(grids, tuple(torch.eye(len(grid)) for grid in grids), (128, 96))
    only_small = (torch.eye(len(grids[0])), torch.eye(len(grids[1])).roll(1, 0) * 0)
    other = PatchFeatures(grids, only_small, (128, 96))
    for weights in ((1.0, 0.0), (0.25, 0.75)):
        reranker = PatchReranker(Rerank(patch_weights=weights), CPU)
        pair = reranker.pair(query, other)
        assert reranker.score(pair) == pytest.approx(float(pair.scores @ np.array(weights)))
        assert pair.scores[0] == 1 and pair.scores[1] < 0.5
