"""EIMP's training: the pooling is that of matching, and its losses are of the keypoints that are left."""

from __future__ import annotations

import torch
from torch.nn import functional

from vpr.matchers.imp_fast import FastImp
from vpr.matchers.imp_matching import assigning, match_sides
from vpr.matchers.imp_pooling import Pooling
from vpr.matchers.points import PointBatch
from vpr.training.correspondence import UNKNOWN, UNMATCHED, Truth
from vpr.training.eimp import EimpNetwork, PooledAssignment, PoolingSettings

CPU = torch.device("cpu")
EQUAL = Truth(torch.arange(60)[None], torch.arange(60)[None], torch.zeros(1, 60, 60, dtype=torch.bool))


def network(threshold: float = 0.6, uncertainty: bool = True) -> EimpNetwork:
    torch.manual_seed(0)
    return EimpNetwork((16, 32), 6, 20, PoolingSettings(threshold=threshold, min_keypoints=12, uncertainty=uncertainty))


def points(seed: int, pairs: int = 3) -> PointBatch:
    random = torch.Generator().manual_seed(seed)
    descriptors = functional.normalize(torch.randn(pairs, 60, 32, generator=random), dim=2)
    return PointBatch(torch.rand(pairs, 60, 2, generator=random), torch.rand(pairs, 60, generator=random), descriptors)


def test_the_pooling_of_training_is_that_of_matching() -> None:
    net, first, second = network(), points(1), points(2)
    with torch.inference_mode():
        found = net(first, second)
        fast = FastImp(net, CPU)
        pooling = Pooling(0.6, 12)
        expected = match_sides(
            fast, fast.encode(first), fast.encode(second), 6, assigning("sinkhorn", 20), pooling=pooling
        )
    kept = found[-1].first.sum(1)
    assert (kept < 60).all() and (kept > 0).all() and found[3].first.all() and not found[4].first.all()
    torch.testing.assert_close(found[-1].probabilities[:, :-1, :-1], expected, atol=2e-5, rtol=1e-3)


def test_nothing_is_learned_of_keypoints_that_left_and_partners_that_left_are_none() -> None:
    left0, left1 = torch.tensor([[True, True, True, False]]), torch.tensor([[True, False, True]])
    truth = Truth(torch.tensor([[0, 1, UNKNOWN, 2]]), torch.tensor([[0, 1, 3]]), torch.ones(1, 4, 3, dtype=torch.bool))
    found = PooledAssignment(torch.zeros(1, 5, 4), left0, left1).truth(truth)
    assert found.first.tolist() == [[0, UNMATCHED, UNKNOWN, UNKNOWN]]
    assert found.second.tolist() == [[0, UNKNOWN, UNMATCHED]]
    assert found.impossible.sum() == 6


def test_wrong_matches_lower_the_threshold_of_the_pooling() -> None:
    """All matches are wrong by this truth, so that every keypoint has the probability of 0 that is asked."""
    side = points(1, pairs=1)
    net = network(threshold=5.0)
    wrong = Truth(EQUAL.first.roll(1, 1), EQUAL.second.roll(-1, 1), EQUAL.impossible)
    with torch.inference_mode():
        shares = [net._share_right(torch.eye(60)[None], each) for each in (EQUAL, wrong, None)]
        counts = [int(net(side, side, each)[-1].first.sum()) for each in (EQUAL, wrong, None)]
    assert [float(torch.as_tensor(share)) for share in shares] == [1.0, 0.0, 1.0]
    assert counts[1] == 60 and counts[0] == counts[2]
    certain = network(threshold=5.0, uncertainty=False)
    with torch.inference_mode():
        assert int(certain(side, side, wrong)[-1].first.sum()) == counts[2]


def test_every_parameter_learns_although_keypoints_leave() -> None:
    net = network()
    net(points(1), points(2), None)[-1].probabilities.square().sum().backward()
    missing = [name for name, each in net.named_parameters() if each.grad is None and "final_proj" not in name]
    assert not missing
    assert all(each.grad.isfinite().all() for each in net.parameters() if each.grad is not None)
