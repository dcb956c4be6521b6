"""AdaLAM: which matches agree with those around them, and what their agreement finds."""

from __future__ import annotations

import pytest
import torch
from published import CPU, random_features
from torch import Tensor
from torch.nn import functional

from vpr.core import LocalFeatures
from vpr.matchers import adalam
from vpr.matchers.adalam import Affinities, Settings, affinities, covered, explained

DIM = 64
TURN = torch.tensor([[0.0, -1.5], [1.5, 0.0]])  # a quarter turn, half as large again


def features(points: Tensor, descriptors: Tensor, size: tuple[int, int] = (640, 480)) -> LocalFeatures:
    return LocalFeatures(points, torch.ones(len(points)), functional.normalize(descriptors, dim=1), size)


def grid(columns: int = 20, rows: int = 15) -> Tensor:
    x, y = torch.meshgrid(torch.arange(columns) * 30.0 + 20, torch.arange(rows) * 30.0 + 20, indexing="xy")
    return torch.stack([x.flatten(), y.flatten()], dim=1)


def noise(count: int, seed: int = 0) -> Tensor:
    return torch.randn(count, DIM, generator=torch.Generator().manual_seed(seed))


def matched(one: LocalFeatures, other: LocalFeatures, **settings: object) -> dict[int, int]:
    (found,) = adalam.build(Settings.model_validate(settings), CPU).match(one, [other])
    return dict(found.pairs.tolist())


@pytest.fixture
def scene() -> LocalFeatures:
    points = grid()
    return features(points, noise(len(points)))


def test_a_turned_and_enlarged_picture_is_matched(scene: LocalFeatures) -> None:
    """All but a few points, which have no seed nearby."""
    found = matched(scene, features(scene.points @ TURN.T, scene.descriptors, (720, 960)))
    assert len(found) > 0.97 * len(scene) and all(row == partner for row, partner in found.items())


def test_what_contradicts_its_neighbours_is_left_out_and_its_true_partner_found(scene: LocalFeatures) -> None:
    descriptors = scene.descriptors.clone()
    fooled = [63, 130, 222]  # each looks more like a point far away than like itself
    for row in fooled:
        descriptors[row] = 0.5 * scene.descriptors[row] + 0.8 * scene.descriptors[(row + 150) % 300]
    similarity = functional.normalize(descriptors, dim=1) @ scene.descriptors.T
    assert all(int(similarity[row].argmax()) != row for row in fooled)
    found = matched(features(scene.points, descriptors), scene)
    assert all(found[row] == row for row in fooled)


def test_a_partner_that_moved_alone_is_none(scene: LocalFeatures) -> None:
    points = scene.points.clone()
    points[100] += torch.tensor([9.0, 0.0])
    assert 100 not in matched(scene, features(points, scene.descriptors))
    assert matched(scene, features(points, scene.descriptors), tolerance=12.0)[100] == 100


def test_unrelated_places_of_the_same_descriptors_are_no_matches() -> None:
    """Nearest neighbours would match them all."""
    one, other = random_features(400, DIM, seed=0), random_features(400, DIM, seed=1)
    assert not matched(one, features(other.points, one.descriptors))


def test_a_mirrored_picture_is_another_one(scene: LocalFeatures) -> None:
    mirrored = features(scene.points * torch.tensor([-1.0, 1.0]) + torch.tensor([640.0, 0.0]), scene.descriptors)
    assert not matched(scene, mirrored)


def test_points_on_one_line_say_nothing() -> None:
    points = torch.stack([torch.arange(50) * 10.0, torch.full((50,), 100.0)], dim=1)
    line = features(points, noise(50))
    assert not matched(line, line)


def test_two_surfaces_each_have_their_own_affinity(scene: LocalFeatures) -> None:
    """No single map of the whole picture explains both halves."""
    right = scene.points[:, 0] > 320
    points = scene.points + torch.where(right[:, None], torch.tensor([60.0, 0.0]), torch.tensor([0.0, 40.0]))
    found = matched(scene, features(points, scene.descriptors))
    assert len(found) > 0.97 * len(scene) and all(row == partner for row, partner in found.items())


def test_pictures_of_unknown_size_are_as_large_as_their_points_reach(scene: LocalFeatures) -> None:
    unknown = LocalFeatures(scene.points, scene.scores, scene.descriptors, (0, 0))
    assert len(matched(unknown, unknown)) > 0.97 * len(scene)


def test_fewer_matches_than_the_minimum_are_not_believed() -> None:
    points = grid(3, 3)
    few = features(points, noise(9))
    assert len(matched(few, few, min_inliers=8)) == 9  # a seed and its eight neighbours
    assert not matched(few, few, min_inliers=9)


def test_unlike_points_can_be_refused(scene: LocalFeatures) -> None:
    other = features(scene.points, scene.descriptors + 0.1 * noise(len(scene), seed=5))
    assert matched(scene, other)
    assert not matched(scene, other, min_similarity=0.95)


def test_chance_decides_how_near_is_near_enough() -> None:
    """Of 40 matches within 100 pixels, 0.4 have an error below 10 by chance: 8 such ones are 20 times as many."""
    start = torch.rand(1, 40, 2, generator=torch.Generator().manual_seed(0)) * 100 - 50
    end = start.clone()
    end[0, 8:, 0] += 60.0
    end[0, :8, 0] += 9.99
    around = adalam._Around(start, end, torch.ones(1, 40, dtype=torch.bool), torch.tensor([100.0]))
    identity = torch.tensor([[[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]])
    assert adalam._agree(identity, around, confidence=20.0).sum() == 8
    assert adalam._agree(identity, around, confidence=20.1).sum() == 0


def test_the_inverse_leads_back() -> None:
    found = Affinities(
        torch.zeros(1, dtype=torch.int64),
        torch.tensor([[10.0, 20.0]]),
        torch.tensor([[50.0, 60.0]]),
        torch.tensor([[[0.0, -2.0, 1.0], [2.0, 0.0, -1.0]]]),
        torch.tensor([30.0]),
    )
    points = torch.tensor([[[10.0, 20.0], [15.0, 22.0], [60.0, 20.0]]])
    assert covered(points, found).tolist() == [[True, True, False]]
    there = torch.tensor([[[51.0, 59.0], [47.0, 69.0]]])  # by hand: partner + matrix @ (offset, 1)
    assert explained(points, there, found, 1e-3)[0, :2].tolist() == [[True, False], [False, True]]
    back = found.inverse()
    assert float(back.reach) == pytest.approx(60.0)
    assert explained(there, points, back, 1e-3)[0, :, :2].tolist() == [[True, False], [False, True]]


def test_pairs_do_not_see_each_other(scene: LocalFeatures) -> None:
    """Affinities of several pairs at once are those of each alone."""
    others = torch.stack([scene.points @ TURN.T, scene.points.flip(0), scene.points + 5])
    similarity = (scene.descriptors @ scene.descriptors.T).expand(3, -1, -1).clone()
    area = torch.tensor([640.0 * 480])
    together = affinities(scene.points[None], others, similarity.clone(), (area, area), Settings())
    for pair in range(3):
        alone = affinities(
            scene.points[None], others[pair : pair + 1], similarity[pair : pair + 1].clone(), (area, area), Settings()
        )
        chosen = together.pair == pair
        assert int(chosen.sum()) == len(alone.pair)
        torch.testing.assert_close(together.matrix[chosen], alone.matrix, rtol=0, atol=1e-4)
