"""AdaLAM: which matches agree with those around them, and what their agreement finds."""

from __future__ import annotations

import pytest
import torch
from published import CPU, random_features
from torch import Tensor
from torch.nn import functional

from vpr.core import LocalFeatures
from vpr.matchers import adalam, affinities, nearest
from vpr.matchers.adalam import Settings
from vpr.matchers.affinities import Affinities, covered, explained, find_affinities, tentative
from vpr.matchers.one_to_many import ScoreAgreement, match_one_to_many

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


def test_a_turned_and_enlarged_image_is_matched(scene: LocalFeatures) -> None:
    """All but a few points, which have no seed nearby."""
    found = matched(scene, features(scene.keypoints @ TURN.T, scene.descriptors, (720, 960)))
    assert len(found) > 0.97 * len(scene) and all(row == partner for row, partner in found.items())


def test_what_contradicts_its_neighbours_is_left_out_and_its_true_partner_found(scene: LocalFeatures) -> None:
    descriptors = scene.descriptors.clone()
    fooled = [63, 130, 222]  # each looks more like a point far away than like itself
    for row in fooled:
        descriptors[row] = 0.5 * scene.descriptors[row] + 0.8 * scene.descriptors[(row + 150) % 300]
    similarity = functional.normalize(descriptors, dim=1) @ scene.descriptors.T
    assert all(int(similarity[row].argmax()) != row for row in fooled)
    found = matched(features(scene.keypoints, descriptors), scene)
    assert all(found[row] == row for row in fooled)


def test_a_partner_that_moved_by_itself_is_none(scene: LocalFeatures) -> None:
    points = scene.keypoints.clone()
    points[100] += torch.tensor([9.0, 0.0])
    assert 100 not in matched(scene, features(points, scene.descriptors))
    assert matched(scene, features(points, scene.descriptors), tolerance=12.0)[100] == 100


def test_unrelated_places_of_the_same_descriptors_are_no_matches() -> None:
    """Nearest neighbours would match them all."""
    one, other = random_features(400, DIM, seed=0), random_features(400, DIM, seed=1)
    assert not matched(one, features(other.keypoints, one.descriptors))


def test_a_mirrored_image_is_another_one(scene: LocalFeatures) -> None:
    mirrored = features(scene.keypoints * torch.tensor([-1.0, 1.0]) + torch.tensor([640.0, 0.0]), scene.descriptors)
    assert not matched(scene, mirrored)


def test_points_on_one_line_say_nothing() -> None:
    points = torch.stack([torch.arange(50) * 10.0, torch.full((50,), 100.0)], dim=1)
    line = features(points, noise(50))
    assert not matched(line, line)


def test_two_surfaces_each_have_their_own_affinity(scene: LocalFeatures) -> None:
    """No single map of the whole picture explains both halves."""
    right = scene.keypoints[:, 0] > 320
    points = scene.keypoints + torch.where(right[:, None], torch.tensor([60.0, 0.0]), torch.tensor([0.0, 40.0]))
    found = matched(scene, features(points, scene.descriptors))
    assert len(found) > 0.97 * len(scene) and all(row == partner for row, partner in found.items())


def test_images_of_unknown_size_are_as_large_as_their_points_reach(scene: LocalFeatures) -> None:
    unknown = LocalFeatures(scene.keypoints, scene.scores, scene.descriptors, (0, 0))
    assert len(matched(unknown, unknown)) > 0.97 * len(scene)


def test_fewer_matches_than_the_minimum_are_not_believed() -> None:
    points = grid(3, 3)
    few = features(points, noise(9))
    assert len(matched(few, few, min_inliers=8)) == 9  # a seed and its eight neighbours
    assert not matched(few, few, min_inliers=9)


def test_unlike_points_can_be_refused(scene: LocalFeatures) -> None:
    other = features(scene.keypoints, scene.descriptors + 0.1 * noise(len(scene), seed=5))
    assert matched(scene, other)
    assert not matched(scene, other, min_similarity=0.95)


def test_chance_decides_how_near_is_near_enough() -> None:
    """Of 40 matches within 100 pixels, 0.4 have an error below 10 by chance: 8 such ones are 20 times as many."""
    start = torch.rand(1, 40, 2, generator=torch.Generator().manual_seed(0)) * 100 - 50
    end = start.clone()
    end[0, 8:, 0] += 60.0
    end[0, :8, 0] += 9.99
    around = affinities._Around(start, end, torch.ones(1, 40, dtype=torch.bool), torch.tensor([100.0]))
    identity = torch.tensor([[[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]])
    assert affinities._agree(identity, around, confidence=20.0).sum() == 8
    assert affinities._agree(identity, around, confidence=20.1).sum() == 0


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
    others = torch.stack([scene.keypoints @ TURN.T, scene.keypoints.flip(0), scene.keypoints + 5])
    similarity = (scene.descriptors @ scene.descriptors.T).expand(3, -1, -1).clone()
    area = torch.tensor([640.0 * 480])

    def found_in(rows: slice) -> Affinities:
        ambiguity = 1 - similarity[rows].amax(2)
        matches = tentative(
            scene.keypoints.expand(len(ambiguity), -1, -1), others[rows], similarity[rows], ambiguity, (area, area)
        )
        return find_affinities(matches, affinities.Settings())

    together = found_in(slice(None))
    for pair in range(3):
        alone = found_in(slice(pair, pair + 1))
        chosen = together.pair == pair
        assert int(chosen.sum()) == len(alone.pair)
        torch.testing.assert_close(together.matrix[chosen], alone.matrix, rtol=0, atol=1e-4)


# ---- on top of the ratio test


def clear_by(scene: LocalFeatures, unclear: slice, likeness: float) -> LocalFeatures:
    """The scene, in which some points look nearly as much like a point far away."""
    descriptors = scene.descriptors.clone()
    rows = torch.arange(300)[unclear]
    descriptors[rows] += likeness * scene.descriptors[(rows + 151) % 300]
    return features(scene.keypoints, descriptors)


def test_unclear_matches_are_taken_where_they_agree_with_those_nearby(scene: LocalFeatures) -> None:
    other = clear_by(scene, slice(0, 300, 2), 0.97)
    alone, agreeing = (
        nearest.build(nearest.Settings.model_validate(settings), CPU).match(scene, [other])[0]
        for settings in ({"ratio": 0.8, "agreement": {"ratio": 0.0}}, {"ratio": 0.8, "agreement": {"ratio": 0.999}})
    )
    assert len(alone) == 150
    assert len(agreeing) > 290 and torch.equal(agreeing.pairs[:, 0], agreeing.pairs[:, 1])
    assert float(agreeing.scores.min()) < 0.2 <= float(alone.scores.min())  # their score is still that of the test


def test_unclear_matches_that_agree_with_nothing_are_not_taken(scene: LocalFeatures) -> None:
    other = clear_by(scene, slice(0, 300, 2), 0.97)
    order = torch.randperm(300, generator=torch.Generator().manual_seed(0))
    elsewhere = features(scene.keypoints[order], other.descriptors)
    method = nearest.build(nearest.Settings(ratio=0.8, agreement=nearest.RatioAgreement(ratio=0.999)), CPU)
    (found,) = method.match(scene, [elsewhere])
    assert len(found) == 150


def test_agreement_looks_at_no_match_above_its_ratio(scene: LocalFeatures) -> None:
    other = clear_by(scene, slice(0, 300, 2), 0.97)
    method = nearest.build(nearest.Settings(ratio=0.8, agreement=nearest.RatioAgreement(ratio=0.8)), CPU)
    assert len(method.match(scene, [other])[0]) == 150


# ---- on top of a learned matcher


def probabilities() -> Tensor:
    """(300, 300) of points that are most probably themselves, the one clearer than the other."""
    clear = torch.rand(300, generator=torch.Generator().manual_seed(0))
    return torch.full((300, 300), 0.001) + torch.diag(0.25 + 0.05 * clear)


def learned(
    one: LocalFeatures, other: LocalFeatures, log_scores: Tensor, threshold: float, **agreement: float
) -> dict[tuple[int, int], float]:
    """Matches of what a network is supposed to have said."""
    (found,) = match_one_to_many(
        one,
        [other],
        encode=lambda batch: batch,
        compare=lambda *_: log_scores[None],
        reach=1.0,
        threshold=threshold,
        agreement=ScoreAgreement(**agreement),
        device=CPU,
    )
    return dict(zip(map(tuple, found.pairs.tolist()), found.scores.tolist(), strict=True))


def test_agreement_finds_partners_that_a_network_ranks_second(scene: LocalFeatures) -> None:
    """And takes away what nothing nearby agrees with, unless the network is sure of it."""
    probable = probabilities()
    expected = float(probable[63, 63])
    probable[63, 213], probable[130, 280] = 0.4, 0.8  # far from where those nearby go
    found = learned(scene, scene, probable.log(), threshold=0.1)
    assert found[63, 63] == pytest.approx(expected) and (130, 130) in found
    assert len(found) > 0.95 * len(scene) and all(row == partner for row, partner in found)
    found = learned(scene, scene, probable.log(), threshold=0.1, accept_threshold=0.6)
    assert found[130, 280] == pytest.approx(0.8) and found[63, 63] == pytest.approx(expected)


def test_agreement_does_not_lower_the_threshold(scene: LocalFeatures) -> None:
    assert not learned(scene, scene, probabilities().log(), threshold=0.35)


def test_points_that_a_network_left_out_are_no_neighbours(scene: LocalFeatures) -> None:
    """Their rows and columns are -inf."""
    log_scores = probabilities().log()
    left_out = torch.arange(300) % 3 == 0
    log_scores[left_out] = -torch.inf
    log_scores[:, left_out] = -torch.inf
    found = learned(scene, scene, log_scores, threshold=0.1)
    assert len(found) > 0.9 * 200 and all(row == partner and row % 3 for row, partner in found)


def test_agreement_is_that_of_each_error_by_itself() -> None:
    """The product of |M s - e|^2 spread out, against the errors one by one; an invalid neighbour counts nothing."""
    random = torch.Generator().manual_seed(3)
    start, end = (160 * torch.rand(2, 9, 2, generator=random) - 80 for _ in range(2))
    matrices = torch.eye(2) + 0.3 * torch.randn(2, 5, 2, 2, generator=random)
    matrices[:, 0] = torch.eye(2)
    end[:, :4] = start[:, :4] + torch.randn(2, 4, 2, generator=random)
    valid = torch.rand(2, 9, generator=random) < 0.8
    around = affinities._Around(start, end, valid, torch.tensor([80.0, 120.0]))
    found = affinities._agreement(matrices.flatten(2).mT, around)
    for s in range(2):
        for h in range(5):
            tolerance = affinities.TOLERANCE * float(around.reach[s])
            errors = [float((matrices[s, h] @ start[s, i] - end[s, i]).norm()) for i in range(9) if valid[s, i]]
            expected = sum(max(0.0, 1 - (error / tolerance) ** 2) for error in errors)
            assert float(found[s, h]) == pytest.approx(expected, abs=2e-3)
    assert float(found[:, 0].min()) > 0
