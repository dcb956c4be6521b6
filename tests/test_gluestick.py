"""Line segments, and matching of points and lines together."""

from functools import cache

import numpy as np
import pytest
import torch
from conftest import textured
from published import CPU, randomise
from test_superpoint import small as small_superpoint

from vpr.core import ConfigError
from vpr.local_features import superpoint
from vpr.local_features.lines import LineSegments, detect_lines, merge_ends
from vpr.local_features.points_and_lines import PointsAndLines
from vpr.matchers import gluestick
from vpr.matchers.gluestick_network import GlueStickNetwork, line_similarity, softmax_both_ways


def squares(seed=0, size=(240, 320)):
    """An image of bright squares, whose sides are segments."""
    random = np.random.default_rng(seed)
    image = np.full(size, 40, np.uint8)
    for x, y in ((30, 40), (140, 60), (230, 130), (60, 150)):
        image[y : y + 60, x : x + 60] = random.integers(120, 255)
    return image


def small(dim):
    """Weights with which points that look alike match."""
    network = randomise(GlueStickNetwork((8, dim), layers=4), 0)
    for layer in network.gnn.layers:
        layer.update.mlp[-1].weight.data *= 0.05
    for layer in network.gnn.line_layers:
        layer.mlp[-1].weight.data *= 0.05
    for encoder in (network.kenc, network.lenc):
        encoder.encoder[-1].weight.data *= 0.02
    for head in (network.final_proj, network.final_line_proj):
        head.weight.data = 14 * torch.eye(dim)[..., None]
        head.bias.data *= 0
    network.bin_score.data = network.line_bin_score.data = torch.tensor(6.0)
    return network


@pytest.fixture(scope="module")
def build(tmp_path_factory):
    tmp_path = tmp_path_factory.mktemp("weights")
    extractor = small_superpoint()
    dim = extractor.convDb.out_channels if hasattr(extractor, "convDb") else extractor.dim
    torch.save(extractor.state_dict(), tmp_path / "superpoint.pth")
    torch.save({"model": {f"matcher.{k}": v for k, v in small(dim).state_dict().items()}}, tmp_path / "gluestick.tar")
    given = {"weights": str(tmp_path / "gluestick.tar"), "superpoint": str(tmp_path / "superpoint.pth")}
    return cache(lambda **settings: gluestick.build(gluestick.Settings(**{**given, **settings}), CPU))


def test_the_sides_of_squares_are_segments():
    found = detect_lines(squares())
    assert len(found) >= 16
    lengths = (found.ends[:, 1] - found.ends[:, 0]).norm(dim=1)
    assert (lengths[:16] - 59).abs().max() < 4
    assert found.scores[0] == 1 and (found.scores.diff() <= 0).all()
    assert len(detect_lines(squares(), min_length=100)) == 0
    assert len(detect_lines(squares(), most=5)) == 5
    assert len(detect_lines(np.zeros((50, 50), np.uint8))) == 0


def test_ends_that_meet_are_one_junction():
    ends = torch.tensor([[[0.0, 0.0], [10.0, 0.0]], [[12.0, 0.0], [10.0, 20.0]]])
    found = merge_ends(LineSegments(ends, torch.tensor([1.0, 0.5])))
    assert found.junctions.tolist() == [[0, 0], [11, 0], [10, 20]]
    assert found.scores.tolist() == [1, 0.75, 0.5]
    assert found.rows.tolist() == [[0, 1], [1, 2]]
    assert found.segments.ends[1].tolist() == [[11, 0], [10, 20]]
    assert found.connectivity.tolist() == [[True, True, False], [True] * 3, [False, True, True]]
    apart = merge_ends(LineSegments(ends, torch.tensor([1.0, 0.5])), radius=1.0)
    assert len(apart.junctions) == 4
    assert len(merge_ends(LineSegments(ends[:0], torch.zeros(0))).junctions) == 0


def test_the_similarity_of_lines_takes_the_better_direction():
    of_points = torch.tensor([[[1.0, 5.0], [7.0, 3.0]]])  # ends turned round: 5 + 7
    rows = torch.tensor([[[0, 1]]])
    assert line_similarity(of_points, rows, rows).item() == 6
    assert line_similarity(of_points, rows.flip(2), rows).item() == 6


def test_each_direction_of_the_softmax_has_its_own_dustbin():
    similarity = torch.tensor([[[2.0, 0.0]]])
    found = softmax_both_ways(similarity, torch.tensor(1.0))[0].exp()
    e = np.exp
    over_columns = e([2, 0]) / (e(2) + 1 + e(1))
    over_rows = e([2, 0]) / (e([2, 0]) + e(1))
    np.testing.assert_allclose(found[0, :2], np.sqrt(over_columns * over_rows), rtol=1e-5)
    np.testing.assert_allclose(found[0, 2], e(1) / (e(2) + 1 + e(1)), rtol=1e-5)
    np.testing.assert_allclose(found[1, :2], e(1) / (e([2, 0]) + e(1)), rtol=1e-5)


def test_an_image_matches_itself_moved(build):
    method = build()
    image = squares()
    moved = np.roll(image, 8, axis=1)  # by one cell of SuperPoint
    pair = [method.preprocess(each) for each in (image, moved)]
    query, candidate = map(method.describe, pair)
    assert len(query) > 16
    ((found, lines, rows, _),) = method.match_both(query, [candidate])
    assert torch.equal(query.points.keypoints[rows.pairs[:, 0]], found.keypoints0)
    assert torch.equal(method.match(pair[0], [pair[1]])[0].keypoints1, found.keypoints1)
    for ours in (found.keypoints1 - found.keypoints0, (lines.ends1 - lines.ends0).flatten(0, 1)):
        assert len(ours) >= 4
        assert ((ours - torch.tensor([8.0, 0.0])).norm(dim=1) < 3).float().mean() > 0.7


def test_images_without_lines_and_tiny_ones(build):
    method = build()
    plain = method.preprocess(np.ascontiguousarray(textured(1, 120, 160)[..., 1]))
    flat = torch.full((1, 60, 60), 90, dtype=torch.uint8)
    tiny = torch.zeros(1, 5, 5, dtype=torch.uint8)
    found = method.match(plain, [flat, tiny, plain])
    assert len(found[1]) == 0 and len(found[2]) > 5
    lined = method.preprocess(squares())
    assert len(method.match_both(method.describe(flat), [method.describe(lined)])[0].lines) == 0
    assert method.match_both(method.describe(tiny), []) == []


def test_candidates_together_are_as_each_alone(build):
    """Images with many, few and no lines, of different sizes: padding is exact."""
    method = build(max_keypoints=150)
    images = [squares(), squares(3, (200, 400))[20:], np.full((90, 90), 50, np.uint8), squares(2)[:160, :210]]
    noise = np.ascontiguousarray(textured(1, 120, 160)[..., 1])
    query, *candidates = [method.describe(method.preprocess(each)) for each in (*images, noise, squares(5))]
    together = method._match_batch(query, [each for each in candidates if len(each)])
    assert sum(len(each.lines) for each in together) > 4
    for each, found in zip([each for each in candidates if len(each)], together, strict=True):
        (alone,) = method._match_batch(query, [each])
        for ours, theirs in zip(found[:2], alone[:2], strict=True):
            assert len(ours) == len(theirs)
            torch.testing.assert_close(ours.scores, theirs.scores, atol=1e-5, rtol=0)
    assert [len(each.points) for each in method.match_both(query, candidates)] == [
        len(method.match_both(query, [each])[0].points) for each in candidates
    ]


def lines_of(method):
    return len(method.describe(method.preprocess(squares())).wireframe.segments)


CHANGES = {
    "max_lines": ({"max_lines": 4}, lambda a, b: lines_of(b) == 4 < lines_of(a)),
    "min_length": ({"min_length": 100.0}, lambda a, b: lines_of(b) == 0 < lines_of(a)),
    "merge_radius": (
        {"merge_radius": 0.01},
        lambda a, b: (
            len(b.describe(b.preprocess(squares())).wireframe.junctions)
            > len(a.describe(a.preprocess(squares())).wireframe.junctions)
        ),
    ),
    "longest_side": ({"longest_side": 160}, lambda a, b: b.preprocess(squares()).shape == (1, 120, 160)),
    "max_keypoints": ({"max_keypoints": 3}, lambda a, b: points_of(b) < points_of(a)),
    "keypoint_threshold": ({"keypoint_threshold": 0.99}, lambda a, b: points_of(b) < points_of(a)),
    "nms_radius": ({"nms_radius": 12}, lambda a, b: points_of(b) < points_of(a)),
    "match_threshold": ({"match_threshold": 1.0}, lambda a, b: self_matches(b) == 0 < self_matches(a)),
}


def points_of(method):
    return len(method.describe(method.preprocess(squares())).points)


def self_matches(method):
    image = method.preprocess(squares())
    return len(method.match(image, [image])[0])


@pytest.mark.parametrize("name", CHANGES)
def test_settings(build, name):
    change, holds = CHANGES[name]
    base = {"keypoint_threshold": 0.0}
    assert holds(build(**base), build(**base | change))


def test_what_is_missing_or_does_not_fit_is_said(tmp_path, build):
    assert CHANGES.keys() | {"method", "weights", "superpoint"} == set(gluestick.Settings.model_fields)
    with pytest.raises(ConfigError, match="needs weights, and none come with vpr"):
        gluestick.build(gluestick.Settings(), CPU)
    extractor = PointsAndLines(superpoint.build(superpoint.Settings(weights="vpr-superpoint"), CPU))
    with pytest.raises(ConfigError, match="descriptors of length 128, these weights of GlueStick take 32"):
        gluestick.GlueStick(small(32), "", extractor, gluestick.Settings(), CPU)
