"""Settings of the methods that test_method_settings.py leaves out: each changes the answer as its comment says.

Every field of every method of the tables is in one of the two files, or named here with the test that has it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import textured
from published import alike, random_features
from small_methods import build_small
from test_method_settings import above, fields, scored

from vpr.core import LocalFeatures, Matches
from vpr.global_descriptors import GLOBAL_DESCRIPTORS
from vpr.local_features import LOCAL_EXTRACTORS
from vpr.local_features.settings import SHARED
from vpr.matchers import MATCHERS

Holds = Callable[[Any, Any], bool]

# ---------------------------------------------------------------- matchers without weights

QUERY = random_features(400, 32, seed=2)
CANDIDATE = alike(QUERY, 360, seed=3, noise=0.2)
BELIEVED = {"min_confidence": 5.0, "search_expansion": 8.0, "min_inliers": 4}
RATIO_TEST = {"agreement": {"ratio": 0.0}}
PLAIN = {"ratio": 1.0, **RATIO_TEST}


def fewer(every: Matches, some: Matches) -> bool:
    return 0 < len(some) < len(every) and scored(some).items() <= scored(every).items()


def none_left(every: Matches, some: Matches) -> bool:
    return len(every) > 0 and len(some) == 0


def differ(one: Matches, other: Matches) -> bool:
    return scored(one) != scored(other)


def as_similar_as(cosine: float) -> Holds:
    def holds(every: Matches, some: Matches) -> bool:
        i, j = every.pairs.T
        similar = (QUERY.descriptors[i] * CANDIDATE.descriptors[j]).sum(1)
        kept = [pair for pair, value in zip(scored(every), similar.tolist(), strict=True) if value >= cosine]
        return 0 < len(some) < len(every) and scored(some).keys() == set(kept)

    return holds


MATCHING: dict[tuple[str, str], tuple[dict[str, Any], dict[str, Any], Holds]] = {
    ("nearest", "ratio"): (PLAIN, {"ratio": 0.6}, above(0.4)),
    ("nearest", "min_similarity"): (PLAIN, {"min_similarity": 0.7}, as_similar_as(0.7)),
    ("nearest", "agreement"): (
        {"ratio": 0.2, **RATIO_TEST},
        {"agreement": {"ratio": 0.96, **BELIEVED}},
        lambda a, b: fewer(b, a),
    ),
    ("adalam", "min_similarity"): (BELIEVED, {"min_similarity": 0.7}, fewer),
    ("adalam", "min_confidence"): (BELIEVED, {"min_confidence": 1e6}, lambda a, b: len(b) < len(a)),
    ("adalam", "min_inliers"): (BELIEVED, {"min_inliers": 300}, none_left),
    ("adalam", "tolerance"): (BELIEVED, {"tolerance": 0.01}, lambda a, b: len(b) < len(a)),
    ("adalam", "area_ratio"): (BELIEVED, {"area_ratio": 1000.0}, differ),
    ("adalam", "search_expansion"): (BELIEVED, {"search_expansion": 2.0}, differ),
    ("adalam", "neighbours"): (BELIEVED, {"neighbours": 8, "min_inliers": 9}, none_left),
}


@pytest.mark.parametrize("row", MATCHING, ids="-".join)
def test_settings_of_matchers(tmp_path: Path, row: tuple[str, str]) -> None:
    base, change, holds = MATCHING[row]
    pair = [build_small(MATCHERS, row[0], tmp_path, **each) for each in (base, base | change)]
    assert holds(*(method.match(QUERY, [CANDIDATE])[0] for method in pair))


# ---------------------------------------------------------------- local features without weights

GREY = np.ascontiguousarray(textured(3, 300, 400)[..., 1])
MANY = {"max_keypoints": 5000}


def some_left(every: LocalFeatures, some: LocalFeatures) -> bool:
    return 0 < len(some) < len(every)


def shrunk(before: LocalFeatures, after: LocalFeatures) -> bool:
    return (before.image_size, after.image_size) == ((400, 300), (200, 150))


def strongest_left(every: LocalFeatures, some: LocalFeatures) -> bool:
    return len(some) <= 30 < len(every) and some.scores[0] == every.scores[0]


CLASSICAL = ("orb", "rootsift", "sift")
LOCAL: dict[tuple[str, str], tuple[dict[str, Any], dict[str, Any], Holds]] = {
    **{(name, "longest_side"): ({}, {"longest_side": 200}, shrunk) for name in CLASSICAL},
    **{(name, "max_keypoints"): (MANY, {"max_keypoints": 30}, strongest_left) for name in CLASSICAL},
    **{(name, "contrast_threshold"): (MANY, {"contrast_threshold": 0.06}, some_left) for name in CLASSICAL[1:]},
    **{(name, "edge_threshold"): (MANY, {"edge_threshold": 2.0}, some_left) for name in CLASSICAL[1:]},
    **{
        (name, "octave_layers"): (MANY, {"octave_layers": 5}, lambda a, b: not torch.equal(a.keypoints, b.keypoints))
        for name in CLASSICAL[1:]
    },
    ("orb", "fast_threshold"): (MANY, {"fast_threshold": 60}, some_left),
    ("orb", "levels"): (MANY, {"levels": 1}, some_left),
    ("orb", "scale_factor"): (MANY, {"scale_factor": 2.0}, lambda a, b: not torch.equal(a.keypoints, b.keypoints)),
}


@pytest.mark.parametrize("row", LOCAL, ids="-".join)
def test_settings_of_local_features(tmp_path: Path, row: tuple[str, str]) -> None:
    base, change, holds = LOCAL[row]
    found: list[LocalFeatures] = []
    for settings in (base, base | change):
        method = build_small(LOCAL_EXTRACTORS, row[0], tmp_path, **settings)
        found += method.extract([method.preprocess(GREY)])
    assert holds(*found)


# ---------------------------------------------------------------- global descriptors

# Shapes after preprocessing of an image of 400 x 300, before and after.
SHAPES: dict[tuple[str, str], tuple[dict[str, Any], tuple[int, ...], tuple[int, ...]]] = {
    **{
        (name, "shortest_side"): ({"shortest_side": 150}, (3, 300, 400), (3, 150, 200))
        for name in ("cosplace", "eigenplaces", "gem")
    },
    ("netvlad", "height"): ({"height": 128}, (3, 96, 128), (3, 128, 128)),
    ("netvlad", "width"): ({"width": 160}, (3, 96, 128), (3, 96, 160)),
    ("netvlad_mat", "longest_side"): ({"longest_side": 200}, (3, 300, 400), (3, 150, 200)),
    ("place", "longest_side"): ({"longest_side": 160}, (3, 240, 320), (3, 128, 160)),
    ("superpoint_global", "longest_side"): ({"longest_side": 200}, (1, 300, 400), (1, 150, 200)),
    ("superpoint_global", "shortest_side"): ({"shortest_side": 360}, (1, 300, 400), (1, 360, 480)),
    ("superpoint_global", "size"): ({"size": (160, 80)}, (1, 300, 400), (1, 80, 160)),
    ("thumbnail", "width"): ({"width": 128}, (32, 64), (32, 128)),
    ("thumbnail", "height"): ({"height": 64}, (32, 64), (64, 64)),
}


def an_image(method: Any) -> Any:
    return GREY if method.channels == "grey" else textured(3, 300, 400)


@pytest.mark.parametrize("row", SHAPES, ids="-".join)
def test_settings_of_image_size(tmp_path: Path, row: tuple[str, str]) -> None:
    change, before, after = SHAPES[row]
    methods = [build_small(GLOBAL_DESCRIPTORS, row[0], tmp_path, **each) for each in ({}, change)]
    prepared = [method.preprocess(an_image(method)) for method in methods]
    assert [tuple(each.shape) for each in prepared] == [before, after]
    one, other = (method.describe([image])[0] for method, image in zip(methods, prepared, strict=True))
    assert one.shape != other.shape or not torch.allclose(one, other, atol=1e-5)


def test_patches_of_the_thumbnail_are_normalised_each(tmp_path: Path) -> None:
    """Light that changes along the border of patches changes nothing; within a patch it does."""
    dark = np.full((32, 64), 1.0, np.float32)
    dark[:, 16:] = 0.25
    image = textured(4, 32, 64)[..., 1].astype(np.float32)
    for patch, same in ((8, True), (16, True), (32, False)):
        method = build_small(GLOBAL_DESCRIPTORS, "thumbnail", tmp_path, patch=patch)
        plain, shaded = method.describe([torch.from_numpy(image), torch.from_numpy(image * dark)])
        assert (float(plain @ shaded) > 0.999) == same
    eight, sixteen = (build_small(GLOBAL_DESCRIPTORS, "thumbnail", tmp_path, patch=patch) for patch in (8, 16))
    prepared = torch.from_numpy(image)
    assert not torch.allclose(eight.describe([prepared]), sixteen.describe([prepared]), atol=1e-3)


def test_whitening_of_matlabs_netvlad_can_be_left_out(tmp_path: Path) -> None:
    whitened, raw = (
        build_small(GLOBAL_DESCRIPTORS, "netvlad_mat", tmp_path, longest_side=200, whiten=each)
        for each in (True, False)
    )
    assert whitened.dim < raw.dim == raw.describe([raw.preprocess(textured(3, 300, 400))]).shape[1]


# ---------------------------------------------------------------- number formats

HALF = [
    (table, name)
    for table in (LOCAL_EXTRACTORS, GLOBAL_DESCRIPTORS, MATCHERS)
    for name in sorted(table)
    if "precision" in table[name].settings.model_fields and name != "hub"  # whose small network has no arithmetic
]


def answer(table: Any, method: Any) -> torch.Tensor:
    """What can be compared between number formats: descriptors, or the scores of the strongest matches."""
    if table is MATCHERS:
        query = random_features(60, 32, seed=0)
        candidate = alike(query, 55, seed=1, noise=0.02)
        scores = method.match(query, [candidate])[0].scores.sort(descending=True).values
        return torch.nn.functional.normalize(scores[:20], dim=0)[None]
    image = method.preprocess(an_image(method))
    if table is LOCAL_EXTRACTORS:
        return method.extract([image])[0].scores[None, :20]
    return method.describe([image])


@pytest.mark.parametrize(("table", "name"), HALF, ids=[name for _, name in HALF])
def test_bf16_changes_the_answer_a_little(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, table: Any, name: str
) -> None:
    monkeypatch.setattr("torch.cpu._is_avx512_bf16_supported", lambda: True)
    exact, half = (answer(table, build_small(table, name, tmp_path, precision=each)) for each in ("fp32", "bf16"))
    assert not torch.equal(exact, half)
    cosine = torch.nn.functional.cosine_similarity(exact.flatten(), half.float().flatten(), dim=0)
    assert float(cosine) > 0.98


# ---------------------------------------------------------------- nothing is left out

ELSEWHERE = {
    ("hub", "model"): "test_hub.py",
    ("hub", "trust_code"): "test_hub.py",
    ("hub", "folder"): "test_hub.py",
    ("hub", "width"): "test_hub.py",
    ("hub", "height"): "test_hub.py",
    ("thumbnail", "patch"): "test_patches_of_the_thumbnail_are_normalised_each",
    ("nearest", "similarity"): "test_rerank.py",
    ("netvlad_mat", "whiten"): "test_whitening_of_matlabs_netvlad_can_be_left_out",
}
ALIKED = ("detection_threshold", "max_keypoints", "longest_side", "nms_radius")
ELSEWHERE |= {("aliked", key): "test_aliked_disk.py" for key in ALIKED}
ELSEWHERE |= {("disk", key): "test_aliked_disk.py" for key in (*ALIKED[:3], "nms_window")}
ELSEWHERE |= {("xfeat", key): "test_xfeat.py" for key in ("detection_threshold", "max_keypoints", "longest_side")}
DOG = ("contrast_threshold", "edge_threshold", "octave_layers", "max_keypoints", "longest_side")
ELSEWHERE |= {("doghardnet", key): "test_oriented.py" for key in DOG}
GRAPH = ("iterations", "assignment", "sinkhorn_iterations", "match_threshold")
POSE = ("pose_threshold", "min_matches", "max_error", "stop_deg", "focal")
POOLED = ("pooling_threshold", "min_keypoints")
ELSEWHERE |= {("imp", key): "test_imp.py" for key in (*GRAPH, "agreement")}
ELSEWHERE |= {("eimp", key): "test_imp.py" for key in (*GRAPH, "agreement", *POOLED, "pooling")}
ELSEWHERE |= {("imp_iterative", key): "test_imp.py" for key in (*GRAPH, *POSE)}
ELSEWHERE |= {("eimp_iterative", key): "test_imp.py" for key in (*GRAPH, *POSE, *POOLED, "uncertainty")}
ELSEWHERE |= {(name, key): "test_dropping.py" for name in LOCAL_EXTRACTORS if name != "superpoint" for key in SHARED}
IN_THE_OTHER_FILE = {"superpoint", "superglue", "lightglue", "patch_netvlad"}


def test_every_field_of_every_method_has_a_test() -> None:
    tables = (LOCAL_EXTRACTORS, GLOBAL_DESCRIPTORS, MATCHERS)
    every = {(name, key) for table in tables for name in table for key in fields(table, name)}
    here = MATCHING.keys() | LOCAL.keys() | SHAPES.keys() | ELSEWHERE.keys()
    assert {row for row in every if row[0] not in IN_THE_OTHER_FILE} == here
