"""What every matcher of the table promises, whatever its method."""

import pytest
import test_imp
import test_lightglue
import test_superglue
import torch
from published import CPU, alike, random_features, same_matches

from vpr.config import lookup
from vpr.core import LocalFeatures
from vpr.matchers import MATCHERS, one_to_many, similarity

DIM = 32
WEIGHTS = {"superglue": test_superglue.small, "lightglue": test_lightglue.small} | {
    name: test_imp.small for name in ("imp", "imp_iterative", "eimp", "eimp_iterative")
}
AFFINITIES = {"search_expansion": 16.0, "min_inliers": 4}  # for a few dozen points
ADAPTIVE = {"depth_confidence": 0.6, "width_confidence": 0.9}
CASES = [
    ("adalam", AFFINITIES),
    ("superglue", {"match_threshold": 0.1}),
    ("superglue", {"match_threshold": 0.0, "agreement": AFFINITIES}),
    ("lightglue", ADAPTIVE),
    ("lightglue", {**ADAPTIVE, "agreement": {**AFFINITIES, "accept_threshold": 0.9}}),
    ("imp", {"match_threshold": 0.1}),
    ("eimp", {"match_threshold": 0.1, "min_keypoints": 8}),
    ("eimp", {"match_threshold": 0.1, "min_keypoints": 8, "pooling": "mask"}),
    ("eimp", {"match_threshold": 0.0, "min_keypoints": 8, "agreement": AFFINITIES}),
    ("imp_iterative", {"match_threshold": 0.1, "min_matches": 8}),
    ("eimp_iterative", {"match_threshold": 0.1, "min_matches": 8, "min_keypoints": 8}),
    ("nearest", {"ratio": 0.95, "agreement": {"ratio": 0.0}}),
    ("nearest", {"ratio": 0.5, "agreement": {**AFFINITIES, "ratio": 0.95}}),
]


CASES += [(name, {}) for name in MATCHERS if name not in {case[0] for case in CASES}]  # as their defaults are


@pytest.fixture(params=CASES, ids=lambda case: f"{case[0]}{'-agreement' * ('agreement' in case[1])}")
def build(request, tmp_path):
    """Builds one matcher of the table for a device."""
    name, settings = request.param
    method = lookup(MATCHERS, name, "matcher")
    settings = {"method": name, **settings}
    if name in WEIGHTS:
        settings["weights"] = str(tmp_path / "weights.pth")
        torch.save(WEIGHTS[name]().state_dict(), settings["weights"])
    return lambda device: method.build(method.settings.model_validate(settings), device)


@pytest.fixture
def matcher(build):
    return build(CPU)


def features(count, seed=0):
    return random_features(count, DIM, seed)


def shuffled(features, seed):
    order = torch.randperm(len(features), generator=torch.Generator().manual_seed(seed))
    return order, LocalFeatures(
        features.keypoints[order], features.scores[order], features.descriptors[order], features.image_size
    )


def test_says_which_weights_it_uses(matcher):
    assert len(matcher.weights) in (0, 64)


def test_finds_points_that_are_the_same(matcher):
    query = features(40)
    (found,) = matcher.match(query, [alike(query, 40, seed=1, noise=0.05)])
    assert len(found) > 10
    assert found.pairs.dtype == torch.int64
    assert found.scores.dtype == torch.float32
    assert found.scores.min() >= 0 and found.scores.max() <= 1


def test_a_point_is_matched_once_at_most(matcher):
    query = features(40)
    (found,) = matcher.match(query, [alike(query, 35, seed=1)])
    for column in (0, 1):
        assert len(found.pairs[:, column].unique()) == len(found)


@pytest.mark.parametrize("batch_bytes", [1, 4 * 40 * 40 * 3, 1 << 30])
def test_many_candidates_give_what_each_gives_singly(matcher, monkeypatch, batch_bytes):
    """In batches of one, of a few, and of all; padded to the longest and not."""
    for module in (one_to_many, similarity):
        monkeypatch.setitem(module.BATCH_BYTES, "cpu", batch_bytes)
    query = features(30)
    candidates = [alike(query, count, seed=count) for count in (40, 12, 40, 25, 3, 1)]
    candidates += [features(count, seed=count) for count in (31, 5)]
    together = matcher.match(query, candidates)
    assert sum(map(len, together)) > 20
    for candidate, found in zip(candidates, together, strict=True):
        assert same_matches(found, matcher.match(query, [candidate])[0], 5e-5)


def test_images_without_points_have_no_matches_and_disturb_nobody(matcher):
    query, nothing = features(20), LocalFeatures.empty(DIM)
    candidate = alike(query, 20, seed=1)
    found = matcher.match(query, [nothing, candidate, nothing])
    assert [len(each) for each in found[::2]] == [0, 0]
    assert same_matches(found[1], matcher.match(query, [candidate])[0], 0)
    assert [len(each) for each in matcher.match(nothing, [candidate, nothing])] == [0, 0]
    assert [len(each) for each in matcher.match(query, [nothing])] == [0]
    assert matcher.match(query, []) == []
    assert matcher.match(nothing, []) == []


def test_an_empty_image_of_unknown_descriptor_length_is_no_error(matcher):
    assert len(matcher.match(features(5), [LocalFeatures.empty(0)])[0]) == 0


def test_single_points(matcher):
    query = features(1)
    for candidate in (query, features(1, seed=1), features(9, seed=2)):
        (found,) = matcher.match(query, [candidate])
        assert len(found) <= 1
        assert found.scores.isfinite().all()


def test_identical_points_are_no_accident(matcher):
    one = features(1)
    same = LocalFeatures(one.keypoints.repeat(6, 1), one.scores.repeat(6), one.descriptors.repeat(6, 1), one.image_size)
    (found,) = matcher.match(same, [same])
    assert found.scores.isfinite().all()


def test_points_in_another_order_give_the_same_matches_in_that_order(matcher):
    query = features(30)
    candidate = alike(query, 36, seed=1)
    order, shuffled_query = shuffled(query, seed=1)
    candidate_order, shuffled_candidate = shuffled(candidate, seed=2)
    (expected,) = matcher.match(query, [candidate])
    (found,) = matcher.match(shuffled_query, [shuffled_candidate])
    pairs = torch.stack([order[found.pairs[:, 0]], candidate_order[found.pairs[:, 1]]], dim=1)
    back = pairs[:, 0].argsort()
    assert len(found) > 5
    assert torch.equal(pairs[back], expected.pairs)
    torch.testing.assert_close(found.scores[back], expected.scores, rtol=0, atol=1e-5)


def test_changes_nothing_it_is_given_and_repeats_itself(matcher):
    query = features(20)
    candidates = [alike(query, 25, seed=1)]
    before = [each.clone() for each in (query.descriptors, candidates[0].keypoints, candidates[0].descriptors)]
    first, second = matcher.match(query, candidates), matcher.match(query, candidates)
    after = (query.descriptors, candidates[0].keypoints, candidates[0].descriptors)
    assert same_matches(first[0], second[0], 0)
    assert all(torch.equal(*each) for each in zip(before, after, strict=True))


def test_half_precision_descriptors_of_a_store_are_taken(matcher):
    query = features(20)
    candidate = alike(query, 20, seed=1)
    stored = LocalFeatures(candidate.keypoints, candidate.scores, candidate.descriptors.half().float(), (640, 480))
    (found,) = matcher.match(query, [stored])
    assert len(found) > 5


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_gives_what_the_cpu_gives(build):
    query = features(40)
    candidates = [alike(query, count, seed=count) for count in (40, 40, 12, 1)] + [LocalFeatures.empty(DIM)]
    expected = build(CPU).match(query, candidates)
    for ours, theirs in zip(build(torch.device("cuda")).match(query, candidates), expected, strict=True):
        assert same_matches(ours, theirs, 1e-3)
