"""Verification, scores, fusion and the re-ranker."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from conftest import features

from vpr.build import build_reranker
from vpr.config import load
from vpr.core import NO_ROW, DataError, Doubles, LocalFeatures, Matches, Origin, Ranking
from vpr.matchers.nearest import Nearest
from vpr.matchers.nearest import Settings as NearestSettings
from vpr.matchers.similarity import mutual_nearest
from vpr.rerank import SCORES, VERIFIERS, LocalReranker, cost, fuse, rerank_into
from vpr.rerank.ahead import pinned
from vpr.rerank.reranker import Settings as RerankSettings
from vpr.rerank.scores import PairEvidence
from vpr.rerank.verification import Settings as Geometry
from vpr.rerank.verification import inliers_by_chance
from vpr.settings import Settings

CPU = torch.device("cpu")


def seen_twice(count: int, wrong: int, seed: int = 0, plane: bool = False) -> tuple[Doubles, Doubles]:
    """Points of a scene in two views of one camera, the last ``wrong`` of them replaced at random."""
    random = np.random.default_rng(seed)
    points = random.uniform([-4, -3, 6], [4, 3, 6 if plane else 14], (count, 3))
    turn, _ = cv2.Rodrigues(np.array([0.05, -0.1, 0.02]))
    moved = points @ turn.T + [0.8, 0.1, 0.3]
    first, second = (500 * each[:, :2] / each[:, 2:] + [320, 240] for each in (points, moved))
    second[count - wrong :] = random.uniform([0, 0], [640, 480], (wrong, 2))
    return first, second


@pytest.mark.parametrize("method", ["magsac", "accurate", "poselib", "torch"])
@pytest.mark.parametrize("model", ["fundamental", "homography"])
def test_verifiers_keep_the_true_matches(method: str, model: str) -> None:
    pytest.importorskip("poselib")
    settings = Geometry(method=method, model=model)
    verifier = VERIFIERS[method].build(settings, CPU)
    first, second = seen_twice(120, 40, plane=model == "homography")
    verified = verifier.verify([(first, second)])[0]
    assert verified.inliers[:80].all()
    assert verified.inliers[80:].sum() <= 6
    assert verified.model is not None and verified.model.shape == (3, 3)


@pytest.mark.parametrize("method", ["magsac", "accurate", "poselib", "torch"])
@pytest.mark.parametrize("model", ["fundamental", "homography"])
@pytest.mark.parametrize("count", [0, 1, 4, 7, 8, 30])
def test_degenerate_matches_are_no_error(method: str, model: str, count: int) -> None:
    pytest.importorskip("poselib")
    verifier = VERIFIERS[method].build(Geometry(method=method, model=model), CPU)
    same = np.full((count, 2), 5.0)
    line = np.stack([np.arange(count, dtype=float), np.arange(count, dtype=float)], axis=1)
    for points in (same, line):
        verified = verifier.verify([(points, points)])[0]
        assert verified.inliers.shape == (count,) and verified.inliers.dtype == bool


@pytest.mark.parametrize("method", sorted(VERIFIERS))
def test_verifiers_are_repeatable(method: str) -> None:
    pytest.importorskip("poselib")
    verifier = VERIFIERS[method].build(Geometry(method=method), CPU)
    pairs = [seen_twice(100, 60, seed=3), seen_twice(30, 10, seed=4), seen_twice(0, 0)]
    together, again = verifier.verify(pairs), verifier.verify(pairs)
    alone = [verifier.verify([pair])[0] for pair in pairs]
    for one, two, three in zip(together, again, alone, strict=True):
        assert np.array_equal(one.inliers, two.inliers) and np.array_equal(one.inliers, three.inliers)


@pytest.mark.parametrize("model", ["fundamental", "homography"])
def test_torch_finds_as_many_inliers_as_poselib(model: str) -> None:
    pytest.importorskip("poselib")
    pairs = [seen_twice(60 + seed, seed % 40, seed, plane=model == "homography") for seed in range(24)]
    counts = {
        method: np.array(
            [each.inliers.sum() for each in VERIFIERS[method].build(Geometry(model=model), CPU).verify(pairs)]
        )
        for method in ("poselib", "torch")
    }
    assert np.abs(counts["torch"] - counts["poselib"]).max() <= 3


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("model", ["fundamental", "homography"])
def test_torch_verifies_alike_on_the_gpu(model: str) -> None:
    pairs = [seen_twice(60 + seed, seed % 40, seed, plane=model == "homography") for seed in range(24)]
    geometry = Geometry(method="torch", model=model)
    on_cpu, on_gpu = (
        VERIFIERS["torch"].build(geometry, device).verify(pairs) for device in (CPU, torch.device("cuda"))
    )
    for one, other in zip(on_cpu, on_gpu, strict=True):
        assert abs(int(one.inliers.sum()) - int(other.inliers.sum())) <= 2


def test_a_model_of_torch_is_in_pixels() -> None:
    first, second = seen_twice(80, 20, plane=True)
    found = VERIFIERS["torch"].build(Geometry(method="torch", model="homography"), CPU).verify([(first, second)])[0]
    assert found.model is not None
    moved = np.hstack([first, np.ones((80, 1))]) @ found.model.T
    assert np.abs(moved[:60, :2] / moved[:60, 2:] - second[:60]).max() < 0.05
    epipolar = VERIFIERS["torch"].build(Geometry(method="torch"), CPU).verify([seen_twice(80, 20)])[0]
    first, second = seen_twice(80, 20)
    assert epipolar.model is not None
    lines = np.hstack([first, np.ones((80, 1))]) @ epipolar.model.T
    distance = np.abs((lines * np.hstack([second, np.ones((80, 1))])).sum(axis=1)) / np.hypot(lines[:, 0], lines[:, 1])
    assert distance[:60].max() < 0.1
    assert abs(np.linalg.det(epipolar.model / np.linalg.norm(epipolar.model))) < 1e-6


@pytest.mark.parametrize("model", ["fundamental", "homography"])
@pytest.mark.parametrize("matches", [12, 40, 150, 600])
@pytest.mark.parametrize("size", [(640, 480), (1280, 960)])
def test_unrelated_matches_stay_near_what_chance_is_said_to_give(
    model: str, matches: int, size: tuple[int, int]
) -> None:
    settings = Geometry(model=model, max_iterations=5000)
    verifier = VERIFIERS["magsac"].build(settings, CPU)
    expected = inliers_by_chance(matches, settings, size)
    random = np.random.default_rng(matches)
    counts = []
    for _ in range(8):
        first, second = (random.uniform([0, 0], size, (matches, 2)) for _ in range(2))
        counts.append(int(verifier.verify([(first, second)])[0].inliers.sum()))
    assert np.median(counts) <= expected + 1
    assert max(counts) <= expected + 5
    assert expected <= np.median(counts) + 8


def test_chance_by_hand() -> None:
    assert inliers_by_chance(0, Geometry(), (640, 480)) == 0
    assert inliers_by_chance(3, Geometry(), (640, 480)) == 3
    assert inliers_by_chance(500, Geometry(method="none"), (640, 480)) == 0
    assert inliers_by_chance(1000, Geometry(), (640, 480)) == pytest.approx(7 + 10.94 + 6.5 * 10.94**0.5, abs=0.1)


@pytest.mark.parametrize("name", sorted(SCORES))
def test_no_evidence_scores_zero_and_more_never_scores_less(name: str) -> None:
    score = SCORES[name]
    assert score(PairEvidence(0, 0, 0.0, 0.0)) == 0
    scores = [score(PairEvidence(100, inliers, 0.3 * inliers, 14.0)) for inliers in range(0, 101, 10)]
    assert all(later >= earlier >= 0 for earlier, later in pairwise(scores))
    assert scores[-1] > 0


def test_scores_by_hand() -> None:
    pair = PairEvidence(matches=50, inliers=20, confidence=7.5, by_chance=12.0)
    found = {name: score(pair) for name, score in SCORES.items()}
    assert found == {"inliers": 20, "inliers_above_chance": 8, "confidence_sum": 7.5, "inlier_ratio": 0.4}
    assert SCORES["inlier_ratio"](PairEvidence(50, 10, 1.0, 12.0)) == 0


def test_fusion_by_hand() -> None:
    fused = fuse(np.array([[1.0, 10.0], [3.0, 10.0], [5.0, 40.0]]), [1.0, 0.5])
    first = np.array([-1, 0, 1]) / np.sqrt(2 / 3)
    second = np.array([-10, -10, 20]) / np.sqrt(200)
    assert np.allclose(fused, first + 0.5 * second)


def test_a_scale_without_evidence_adds_nothing() -> None:
    scales = np.array([[1.0, 0.1], [3.0, 0.1], [5.0, 0.1]])
    assert np.allclose(fuse(scales, [1.0, 9.0]), fuse(scales[:, :1], [1.0]))
    assert not fuse(np.full((4, 2), 0.1), [1.0, 1.0]).any()
    assert fuse(np.zeros((0, 2)), [1.0, 1.0]).shape == (0,)
    assert fuse(np.array([[7.0, 3.0]]), [1.0, 1.0]).tolist() == [0.0]


def test_mutual_neighbours_against_a_plain_loop() -> None:
    random = torch.Generator().manual_seed(0)
    for shape in ((3, 20, 30), (2, 30, 20), (2, 1, 5), (2, 5, 1), (1, 1, 1)):
        similarity = 2 * torch.rand(shape, generator=random) - 1
        similarity[0, :, shape[2] // 2 + 1 :] = -torch.inf  # a candidate with fewer points
        forward, cosine, mutual, ratios = mutual_nearest(similarity.clone())
        for k, n in np.ndindex(shape[:2]):
            m = int(similarity[k, n].argmax())
            assert forward[k, n] == m and cosine[k, n] == similarity[k, n, m]
            assert mutual[k, n] == (similarity[k, :, m].argmax() == n)
            ratio = max(plain_ratio(similarity[k, n]), plain_ratio(similarity[k, :, m])) if mutual[k, n] else math.inf
            assert ratios[k, n] == pytest.approx(ratio, rel=1e-5)
    tied = mutual_nearest(torch.ones(1, 4, 3))
    assert tied.mutual.sum() == 1 and tied.ratio[tied.mutual].item() == 1.0  # no point is matched twice


def test_int8_descriptors_find_the_matches_of_float32() -> None:
    random = torch.Generator().manual_seed(0)

    def of(rows: torch.Tensor) -> LocalFeatures:
        unit = torch.nn.functional.normalize(rows, dim=1)
        return LocalFeatures(torch.rand(len(rows), 2) * 100, torch.ones(len(rows)), unit, (100, 100))

    rows = torch.randn(60, 128, generator=random)
    candidates = [of(rows[:count] + 0.3 * torch.randn(count, 128, generator=random)) for count in (60, 0, 7)]
    exact, rounded = (
        Nearest(NearestSettings(similarity=way), CPU).match(of(rows), candidates) for way in ("float32", "int8")
    )
    assert [len(each) for each in exact] == [60, 0, 7]
    for one, other in zip(exact, rounded, strict=True):
        assert torch.equal(one.pairs, other.pairs) and torch.allclose(one.scores, other.scores, atol=0.01)
    assert not torch.equal(exact[0].scores, rounded[0].scores)  # it was another computation
    assert not any(map(len, Nearest(NearestSettings(similarity="int8"), CPU).match(of(rows[:0]), candidates)))


def plain_ratio(similarities: torch.Tensor) -> float:
    best = similarities[similarities.isfinite()].sort(descending=True).values[:2]
    return float(((2 - 2 * best[0] + 1e-5) / (2 - 2 * best[1] + 1e-5)).sqrt()) if len(best) == 2 else 0.0


def test_nearest_neighbours_by_hand() -> None:
    def of(*angles: float) -> LocalFeatures:
        turned = torch.tensor(angles)
        rows = torch.stack([turned.cos(), turned.sin()], dim=1)
        return LocalFeatures(torch.zeros(len(rows), 2), torch.zeros(len(rows)), rows, (1, 1))

    query, candidate = of(0.0, 1.0, 2.0), of(1.02, 2.5, 0.05)
    matches = Nearest(NearestSettings(ratio=0.9), CPU).match(query, [candidate])[0]
    assert matches.pairs.tolist() == [[0, 2], [1, 0], [2, 1]]
    chord = lambda angle: 2 * np.sin(angle / 2)  # noqa: E731
    ratios = [
        max(chord(0.05) / chord(1.02), chord(0.05) / chord(0.95)),
        max(chord(0.02) / chord(0.95), chord(0.02) / chord(0.98)),
        max(chord(0.5) / chord(0.98), chord(0.5) / chord(1.5)),
    ]
    assert np.allclose(matches.scores.numpy(), 1 - np.array(ratios), atol=1e-3)
    strict = Nearest(NearestSettings(ratio=0.3), CPU).match(query, [candidate])[0]
    assert strict.pairs.tolist() == [[0, 2], [1, 0]]
    similar = Nearest(NearestSettings(min_similarity=0.9), CPU).match(query, [candidate])[0]
    assert similar.pairs.tolist() == [[0, 2], [1, 0]]


def test_repeated_structure_has_no_confidence() -> None:
    """Two equal descriptors in one image: the ratio is 1, so nothing matches."""
    image = features(0, 6)
    twin = LocalFeatures(
        image.keypoints.repeat(2, 1), image.scores.repeat(2), image.descriptors.repeat(2, 1), image.image_size
    )
    assert len(Nearest(NearestSettings(), CPU).match(image, [twin])[0]) == 0
    assert len(Nearest(NearestSettings(), CPU).match(image, [image])[0]) == 6


# --- the re-ranker, with a matcher that says how many matches each candidate has


class Told:
    """Matches the first ``count`` points, where the count is written into the candidate's first score."""

    weights = ""

    def match(self, query: LocalFeatures, candidates: Sequence[LocalFeatures]) -> list[Matches]:
        found = []
        for candidate in candidates:
            count = int(candidate.scores[0]) if len(candidate) and len(query) else 0
            rows = torch.arange(count)
            found.append(Matches(torch.stack([rows, rows], dim=1), torch.full((count,), 0.5)))
        return found


def with_matches(count: int) -> LocalFeatures:
    image = features(count, 20)
    return LocalFeatures(image.keypoints, torch.full((20,), float(count)), image.descriptors, image.image_size)


def told(k: int = 50, score: str = "inliers", weight: float = 0.0, evidence: float = 0.0, **more: Any) -> LocalReranker:
    settings = RerankSettings(k=k, score=score, retrieval_weight=weight, evidence_weight=evidence)
    return LocalReranker(Told(), VERIFIERS["none"].build(Geometry(), CPU), settings, Geometry(method="none"), **more)


DATABASE = [with_matches(count) for count in (3, 0, 9, 3, 12, 0)]
SHORTLIST = Ranking(
    np.array([[0, 1, 2, 3, 4, 5], [5, 3, 1, 0, NO_ROW, NO_ROW]]),
    np.array([[0.9, 0.8, 0.7, 0.6, 0.5, 0.4], [0.9, 0.8, 0.7, 0.6, -np.inf, -np.inf]], dtype=np.float32),
)
QUERIES = [features(50, 20), features(51, 20)]


def test_sorted_by_score_with_ties_in_the_order_of_the_shortlist() -> None:
    ranking = told().rerank(SHORTLIST, QUERIES, DATABASE)
    assert ranking.rows.tolist() == [[4, 2, 0, 3, 1, 5], [3, 0, 5, 1, NO_ROW, NO_ROW]]
    assert ranking.scores[0].tolist() == [12, 9, 3, 3, 0, 0]
    assert ranking.evidence is not None
    assert ranking.evidence.inliers.tolist() == [[12, 9, 3, 3, 0, 0], [3, 3, 0, 0, -1, -1]]
    assert np.allclose(ranking.evidence.similarity[0], [0.5, 0.7, 0.9, 0.6, 0.8, 0.4])


def test_candidates_beyond_k_stay_below_in_their_order() -> None:
    ranking = told(k=3).rerank(SHORTLIST, QUERIES, DATABASE)
    assert ranking.rows[0].tolist() == [2, 0, 1, 3, 4, 5]
    assert ranking.scores[0, :3].tolist() == [9, 3, 0]
    assert np.allclose(ranking.scores[0, 3:], [0.0, -0.1, -0.2])
    assert ranking.evidence is not None and ranking.evidence.matches[0].tolist() == [9, 3, 0, -1, -1, -1]


def test_k_zero_changes_nothing() -> None:
    ranking = told(k=0).rerank(SHORTLIST, QUERIES, DATABASE)
    assert np.array_equal(ranking.rows, SHORTLIST.rows)
    assert np.array_equal(ranking.scores, SHORTLIST.scores)


@pytest.mark.parametrize("weight", [0.0, 0.5])
def test_without_any_evidence_the_shortlist_stays(weight: float) -> None:
    nothing = [with_matches(0)] * 6
    assert np.array_equal(told(weight=weight).rerank(SHORTLIST, QUERIES, nothing).rows, SHORTLIST.rows)
    blind = [LocalFeatures.empty(16)] * 2
    assert np.array_equal(told(weight=weight).rerank(SHORTLIST, blind, DATABASE).rows, SHORTLIST.rows)


def test_the_retrieval_has_a_say_by_its_weight() -> None:
    near = [with_matches(count) for count in (10, 11, 0, 0, 0, 0)]
    assert told().rerank(SHORTLIST, QUERIES, near).rows[0, 0] == 1
    assert told(weight=1.0).rerank(SHORTLIST, QUERIES, near).rows[0, 0] == 0


def test_inliers_above_chance_count_by_their_logarithm() -> None:
    counts, similarity = np.array([3.0, 0, 9, 3, 12, 0]), np.array([0.9, 0.8, 0.7, 0.6, 0.5, 0.4])
    chance = [told().pair(QUERIES[0], each).evidence.by_chance for each in DATABASE]
    above = np.maximum(0, counts - chance)
    assert (above > 0).any()

    def standard(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        return (values - values.mean()) / values.std()

    for weight in (0.0, 1.7):
        expected = standard(counts) + weight * standard(similarity) + 2.4 * np.log1p(above)
        found = told(weight=weight, evidence=2.4).rerank(SHORTLIST, QUERIES, DATABASE)
        assert np.allclose(found.scores[0], -np.sort(-expected), atol=1e-5)
        assert found.rows[0].tolist() == np.argsort(-expected, kind="stable").tolist()


def test_a_verified_candidate_passes_more_similar_ones() -> None:
    last = [with_matches(count) for count in (0, 0, 0, 0, 0, 20)]
    assert told(weight=5.0).rerank(SHORTLIST, QUERIES, last).rows[0, 0] == 0
    assert told(weight=5.0, evidence=10.0).rerank(SHORTLIST, QUERIES, last).rows[0, 0] == 5


def test_a_query_without_candidates_stays_empty() -> None:
    empty = Ranking(np.full((1, 3), NO_ROW), np.full((1, 3), -np.inf, dtype=np.float32))
    ranking = told().rerank(empty, QUERIES[:1], DATABASE)
    assert ranking.rows.tolist() == [[NO_ROW] * 3]


@pytest.mark.parametrize("k", [0, 2, 6])
def test_reading_ahead_changes_nothing(k: int) -> None:
    ahead, lazy = (
        told(k=k, weight=0.5, reads_ahead=each).rerank(SHORTLIST, QUERIES, DATABASE) for each in (True, False)
    )
    assert np.array_equal(ahead.rows, lazy.rows) and np.array_equal(ahead.scores, lazy.scores)
    none = Ranking(np.zeros((0, 3), dtype=np.int64), np.zeros((0, 3), dtype=np.float32))
    assert len(told(reads_ahead=True).rerank(none, [], DATABASE)) == 0


def test_what_cannot_be_read_ahead_is_told() -> None:
    class Damaged(list):  # type: ignore[type-arg]
        def __getitem__(self, row: Any) -> Any:
            raise DataError(f"image {row}")

    with pytest.raises(DataError, match="image 0"):
        told(reads_ahead=True).rerank(SHORTLIST, QUERIES, Damaged(DATABASE))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_pinned_features_are_the_same_features() -> None:
    for plain, moved in ((each, pinned(each)) for each in DATABASE):
        assert moved.descriptors.is_pinned() and moved.image_size == plain.image_size
        assert torch.equal(moved.descriptors, plain.descriptors) and torch.equal(moved.keypoints, plain.keypoints)


# --- cost control, on candidates with 3, 0, 9, 3, 12 and 0 matches


def under(**rules: Any) -> LocalReranker:
    return told(control=cost.Settings(**rules), threads=1, together=1)


def examined(ranking: Ranking, query: int = 0) -> list[int]:
    """Rows that were matched, in the order of the ranking."""
    assert ranking.evidence is not None
    return ranking.rows[query][ranking.evidence.matches[query] >= 0].tolist()


def test_by_default_everything_is_looked_at() -> None:
    assert examined(under().rerank(SHORTLIST, QUERIES, DATABASE)) == [4, 2, 0, 3, 1, 5]


def test_it_stops_at_the_first_candidate_with_enough_evidence() -> None:
    ranking = under(stop_inliers=5).rerank(SHORTLIST, QUERIES, DATABASE)
    assert examined(ranking) == [2, 0, 1]
    assert ranking.rows[0].tolist() == [2, 0, 1, 3, 4, 5]
    assert examined(under(stop_inliers=13).rerank(SHORTLIST, QUERIES, DATABASE)) == [4, 2, 0, 3, 1, 5]


def test_a_budget_of_pairs_is_kept() -> None:
    ranking = under(budget_pairs=2).rerank(SHORTLIST, QUERIES, DATABASE)
    assert examined(ranking) == [0, 1]
    assert ranking.rows[0].tolist() == [0, 1, 2, 3, 4, 5]
    assert len(examined(told(control=cost.Settings(budget_pairs=5)).rerank(SHORTLIST, QUERIES, DATABASE))) == 5


def test_a_budget_of_time_looks_at_one_group_at_least() -> None:
    assert examined(under(budget_ms=1e-6).rerank(SHORTLIST, QUERIES, DATABASE)) == [0]
    assert len(examined(under(budget_ms=1e6).rerank(SHORTLIST, QUERIES, DATABASE))) == 6


def test_the_gate_keeps_a_shortlist_without_evidence() -> None:
    ranking = under(gate_inliers=13).rerank(SHORTLIST, QUERIES, DATABASE)
    assert np.array_equal(ranking.rows, SHORTLIST.rows) and np.array_equal(ranking.scores, SHORTLIST.scores)
    assert ranking.evidence is not None
    assert ranking.evidence.inliers[0].tolist() == [3, 0, 9, 3, 12, 0]
    opened = under(gate_inliers=12).rerank(SHORTLIST, QUERIES, DATABASE)
    assert opened.rows.tolist() == [[4, 2, 0, 3, 1, 5], [5, 3, 1, 0, NO_ROW, NO_ROW]]


def test_the_gate_guards_only_a_shortlist_whose_first_stands_out() -> None:
    assert cost.lead(np.array([0.9, 0.5, 0.3, -np.inf], dtype=np.float32)) == pytest.approx(5)
    assert cost.lead(np.array([0.9, 0.5], dtype=np.float32)) == np.inf == cost.lead(np.zeros(4, dtype=np.float32))
    lead = cost.lead(SHORTLIST.scores[0])
    kept, changed = (
        under(gate_inliers=13, gate_lead=wanted).rerank(SHORTLIST, QUERIES, DATABASE).rows[0].tolist()
        for wanted in (lead - 0.1, lead + 0.1)
    )
    assert kept == SHORTLIST.rows[0].tolist() and changed == [4, 2, 0, 3, 1, 5]


def test_the_scout_sends_the_promising_ones_first() -> None:
    """The cheap matcher sees what the dear one sees, so the best candidate is found with a single pair."""
    prefiltered = told(control=cost.Settings(budget_pairs=1), prefilter=Told(), together=1, threads=2)
    ranking = prefiltered.rerank(SHORTLIST, QUERIES, DATABASE)
    assert examined(ranking) == [4]
    assert ranking.rows[0].tolist() == [4, 0, 1, 2, 3, 5]


def test_the_scout_can_leave_out_those_that_promise_little() -> None:
    for share, looked_at in ((0.0, [4, 2, 0, 3, 1, 5]), (0.25, [4, 2, 0, 3]), (0.26, [4, 2]), (1.0, [4])):
        prefiltered = told(control=cost.Settings(promise=share), prefilter=Told())
        assert examined(prefiltered.rerank(SHORTLIST, QUERIES, DATABASE)) == looked_at
    nothing = [with_matches(0)] * 6
    assert (
        len(examined(told(control=cost.Settings(promise=1), prefilter=Told()).rerank(SHORTLIST, QUERIES, nothing))) == 6
    )


def test_without_an_early_end_the_order_of_work_changes_nothing() -> None:
    ranking = told(prefilter=Told(), weight=0.5).rerank(SHORTLIST, QUERIES, DATABASE)
    plain = told(weight=0.5).rerank(SHORTLIST, QUERIES, DATABASE)
    assert np.array_equal(ranking.rows, plain.rows) and np.array_equal(ranking.scores, plain.scores)


def test_one_thread_or_many_give_the_same_bytes() -> None:
    images = [features(seed, 120) for seed in range(8)]
    rankings = []
    for threads in (1, 3):
        reranker = build_reranker(load(Settings, None, [f"machine.threads={threads}", "machine.device=cpu"]))
        rows = np.arange(8)[None]
        scores = -rows.astype(np.float32)
        rankings.append(reranker.rerank(Ranking(rows, scores), [features(90, 120)], images))
    assert np.array_equal(rankings[0].rows, rankings[1].rows)
    assert np.array_equal(rankings[0].scores, rankings[1].scores)


def test_one_pair_and_a_ranking_agree() -> None:
    reranker = told()
    pair = reranker.pair(QUERIES[0], DATABASE[4])
    assert (pair.evidence.matches, reranker.score(pair)) == (12, 12)


# --- blocks that survive a kill

ORIGIN = Origin("re-ranked shortlist", "abc")
DATABASE_KEYS = [f"database {row}" for row in range(len(DATABASE))]
MANY = Ranking(np.tile(SHORTLIST.rows[:1], (40, 1)), np.tile(SHORTLIST.scores[:1], (40, 1)))


class Never:
    def rerank(self, *_: object) -> Ranking:
        raise AssertionError("a finished query was re-ranked again")


class Counting:
    """Re-ranks, and keeps the shortlists that it was given."""

    def __init__(self) -> None:
        self.queries = 0

    def rerank(
        self,
        shortlist: Ranking,
        queries: Sequence[LocalFeatures],
        database: Sequence[LocalFeatures],
        k: int | None = None,
    ) -> Ranking:
        self.queries += len(shortlist)
        return told().rerank(shortlist, queries, database, k)


def many_queries() -> dict[str, Any]:
    return {
        "reranker": told(),
        "shortlist": MANY,
        "queries": [features(seed, 20) for seed in range(40)],
        "database": DATABASE,
        "query_keys": [f"query {row}" for row in range(40)],
        "database_keys": DATABASE_KEYS,
    }


def test_blocks_give_what_one_call_gives(tmp_path: Path) -> None:
    job = many_queries()
    whole = told().rerank(MANY, job["queries"], DATABASE)
    ranking, reused = rerank_into(tmp_path / "blocks", ORIGIN, **job)
    assert reused == 0
    assert np.array_equal(ranking.rows, whole.rows) and np.array_equal(ranking.scores, whole.scores)
    again, reused = rerank_into(tmp_path / "blocks", ORIGIN, **{**job, "reranker": Never()})
    assert reused == 40
    assert again.evidence is not None and whole.evidence is not None
    assert np.array_equal(again.rows, whole.rows)
    assert np.array_equal(again.evidence.inliers, whole.evidence.inliers)
    next((tmp_path / "blocks").rglob("*.safetensors")).unlink()
    assert np.array_equal(rerank_into(tmp_path / "blocks", ORIGIN, **job).ranking.rows, whole.rows)


def changed_shortlist(job: dict[str, Any]) -> None:
    rows = MANY.rows.copy()
    rows[7, :2] = rows[7, [1, 0]]
    job["shortlist"] = Ranking(rows, MANY.scores)


def changed_similarity(job: dict[str, Any]) -> None:
    scores = MANY.scores.copy()
    scores[7, 0] += 0.01
    job["shortlist"] = Ranking(MANY.rows, scores)


def changed_query(job: dict[str, Any]) -> None:
    job["query_keys"] = [*job["query_keys"][:7], "other content", *job["query_keys"][8:]]


def changed_database(job: dict[str, Any]) -> None:
    job["database_keys"] = ["other content", *DATABASE_KEYS[1:]]


@pytest.mark.parametrize(
    ("change", "queries"), [(changed_shortlist, 1), (changed_similarity, 1), (changed_query, 1), (changed_database, 40)]
)
def test_what_changed_is_re_ranked_again_and_nothing_else(
    change: Callable[[dict[str, Any]], None], queries: int, tmp_path: Path
) -> None:
    job = many_queries()
    rerank_into(tmp_path / "blocks", ORIGIN, **job)
    change(job)
    counting = Counting()
    _, reused = rerank_into(tmp_path / "blocks", ORIGIN, **{**job, "reranker": counting})
    assert (counting.queries, reused) == (queries, 40 - queries)


def test_blocks_of_other_settings_are_refused_and_damaged_ones_made_again(tmp_path: Path) -> None:
    job = {
        "reranker": told(),
        "shortlist": SHORTLIST,
        "queries": QUERIES,
        "database": DATABASE,
        "query_keys": [f"query {row}" for row in range(len(QUERIES))],
        "database_keys": DATABASE_KEYS,
    }
    ranking, _ = rerank_into(tmp_path / "blocks", ORIGIN, **job)
    with pytest.raises(DataError, match="made with other settings"):
        rerank_into(tmp_path / "blocks", Origin("re-ranked shortlist", "xyz"), **job)
    next((tmp_path / "blocks").rglob("*.safetensors")).write_bytes(b"broken")
    again, reused = rerank_into(tmp_path / "blocks", ORIGIN, **job)
    assert reused == 0 and np.array_equal(again.rows, ranking.rows)
