"""Recall, its intervals, and what re-ranking changed."""

from pathlib import Path

import numpy as np
import pytest

from vpr.core import DataError, Dataset, ImageSet, Ranking
from vpr.evaluation.bootstrap import interval, resample
from vpr.evaluation.comparison import ceiling, compare, mcnemar, summarise
from vpr.evaluation.distance import distances_m
from vpr.evaluation.recall import NEVER, first_hits, place_count, recall_at, right_candidates


def ranking(rows):
    rows = np.array(rows, dtype=np.int64)
    scores = np.where(rows < 0, -np.inf, -np.arange(rows.shape[1], dtype=np.float32)).astype(np.float32)
    return Ranking(rows, scores)


def truth(*lists):
    return tuple(np.array(rows, dtype=np.int64) for rows in lists)


def images(count, groups=None, positions=None, zone=None, prefix="d"):
    names = tuple(f"{prefix}{i}.jpg" for i in range(count))
    return ImageSet(Path("root"), names, positions, zone, None if groups is None else np.array(groups))


def values(estimates):
    return [estimate.value for estimate in estimates]


FOUR = ranking([[3, 1, 0], [2, 0, 1], [0, 1, 2], [1, -1, -1]])
FOUR_TRUTH = truth([0, 1], [2], [], [3])


def test_first_hits_by_hand():
    assert first_hits(FOUR, FOUR_TRUTH).tolist() == [2, 1, NEVER, NEVER]


def test_a_pad_is_never_right():
    # The pad of query 1 must not be taken for the last database row of query 0.
    assert not right_candidates(ranking([[0, 1], [0, -1]]), truth([3], [3])).any()


def test_first_hits_equal_a_plain_loop():
    rng = np.random.default_rng(0)
    rows = np.array([rng.permutation(30)[:12] for _ in range(50)])
    rows[rng.random(50) < 0.3, 9:] = -1
    positives = tuple(np.sort(rng.choice(30, size=rng.integers(0, 4), replace=False)) for _ in range(50))
    expected = [
        next((rank for rank, row in enumerate(line, 1) if row in set(right)), NEVER)
        for line, right in zip(rows.tolist(), positives, strict=True)
    ]
    assert first_hits(ranking(rows), positives).tolist() == expected


def test_recall_divides_by_all_queries_and_by_the_answerable():
    table = recall_at(FOUR, FOUR_TRUTH, [3, 1, 2, 1], images(4))
    assert table.ks == (1, 2, 3)
    assert values(table.over_all) == [1 / 4, 2 / 4, 2 / 4]
    assert values(table.over_answerable) == [1 / 3, 2 / 3, 2 / 3]
    assert (table.queries, table.unanswerable) == (4, 1)


def test_k_beyond_a_complete_ranking_means_the_whole_list():
    table = recall_at(ranking([[1, 0]]), truth([0]), [1, 100], images(2))
    assert values(table.over_all) == [0, 1]


def test_k_beyond_an_incomplete_ranking_is_refused():
    with pytest.raises(DataError, match="recall@5 needs 5 candidates per query, but the ranking holds 3"):
        recall_at(FOUR, FOUR_TRUTH, [1, 5], images(4))


@pytest.mark.parametrize("ks", [[], [0], [-1, 5]])
def test_k_below_one_is_refused(ks):
    with pytest.raises(DataError, match="each 1 or more"):
        recall_at(FOUR, FOUR_TRUTH, ks, images(4))


def test_ground_truth_of_other_queries_is_refused():
    with pytest.raises(DataError, match="ground truth for 3 queries, but a ranking of 4"):
        first_hits(FOUR, FOUR_TRUTH[:3])


def test_one_candidate_per_panorama_is_complete_at_the_group_count():
    database = images(6, groups=[7, 7, 7, 9, 9, 9])
    per_group, per_image = ranking([[4, 0], [1, -1]]), ranking([[0, 1], [1, 4]])
    assert place_count(per_group, database) == 2
    assert place_count(per_image, database) == 6
    assert values(recall_at(per_group, truth([0], [3]), [20], database).over_all) == [0.5]
    with pytest.raises(DataError, match="recall@20"):
        recall_at(per_image, truth([0], [3]), [20], database)


def test_no_query_and_no_answerable_query_have_no_recall():
    empty = recall_at(ranking(np.zeros((0, 2))), (), [1], images(2))
    assert np.isnan(empty.over_all[0].value)
    table = recall_at(ranking([[0, 1]]), truth([]), [1], images(2))
    assert (table.over_all[0].value, table.unanswerable) == (0, 1)
    assert np.isnan(table.over_answerable[0].value)


def test_an_empty_database_has_recall_zero():
    table = recall_at(Ranking(np.zeros((2, 0), np.int64), np.zeros((2, 0), np.float32)), truth([], []), [1], images(0))
    assert values(table.over_all) == [0]


def test_duplicated_positives_count_once():
    assert values(recall_at(ranking([[0, 1]]), truth([1, 1]), [1, 2], images(2)).over_all) == [0, 1]


def test_resample_has_the_moments_of_drawing_queries():
    draws = resample(np.array([30, 50, 20]), samples=20_000, seed=3)
    assert (draws.sum(axis=1) == 100).all()
    assert draws.mean(axis=0) == pytest.approx([30, 50, 20], abs=0.2)
    assert draws.var(axis=0) == pytest.approx([21, 25, 16], rel=0.05)


def test_interval_agrees_with_resampling_the_queries_themselves():
    rng = np.random.default_rng(1)
    hits = rng.random(200) < 0.7
    loop = np.quantile([hits[rng.integers(0, 200, 200)].mean() for _ in range(4000)], [0.025, 0.975])
    ranks = ranking([[0, 1] if hit else [1, 0] for hit in hits])
    estimate = recall_at(ranks, truth(*[[0]] * 200), [1], images(2), samples=4000).over_all[0]
    assert (estimate.low, estimate.high) == pytest.approx(loop, abs=0.011)
    assert estimate.low < hits.mean() < estimate.high


def test_interval_ends_cut_off_the_tails():
    low, high = interval(np.arange(1001.0))
    assert (float(low), float(high)) == (25.0, 975.0)


def test_interval_is_repeatable_and_closed_when_all_agree():
    table = recall_at(ranking([[0], [0]]), truth([0], [0]), [1], images(1))
    assert (table.over_all[0].low, table.over_all[0].high) == (1, 1)
    assert recall_at(FOUR, FOUR_TRUTH, [1], images(4)) == recall_at(FOUR, FOUR_TRUTH, [1], images(4))


def test_interval_does_not_depend_on_the_other_k():
    rng = np.random.default_rng(4)
    ranks = ranking([rng.permutation(9) for _ in range(70)])
    positives = truth(*rng.integers(0, 9, (70, 1)))
    alone, together = (recall_at(ranks, positives, ks, images(9)).over_all for ks in ([3], [1, 3, 5]))
    assert alone[0] == together[1]


AFTER = ranking([[0, 1, 3], [0, 1, 2], [0, 1, 2], [1, -1, -1]])


def test_helped_and_harmed_by_hand():
    first, third = compare(FOUR, AFTER, FOUR_TRUTH, [3, 1])
    assert (first.k, first.helped, first.harmed) == (1, (0,), (1,))
    assert (third.k, third.helped, third.harmed) == (3, (), ())
    assert first.difference.value == 0
    assert first.difference.low < 0 < first.difference.high
    assert (third.difference.low, third.difference.high, third.p_value) == (0, 0, 1)


def test_swapping_the_stages_swaps_help_and_harm():
    (forth,), (back,) = compare(FOUR, AFTER, FOUR_TRUTH, [1]), compare(AFTER, FOUR, FOUR_TRUTH, [1])
    assert (forth.helped, forth.harmed, forth.p_value) == (back.harmed, back.helped, back.p_value)


def test_difference_of_recalls_is_the_recall_of_differences():
    rng = np.random.default_rng(2)
    before, after = (ranking([rng.permutation(5) for _ in range(60)]) for _ in range(2))
    positives = truth(*rng.integers(0, 5, (60, 1)))
    for change in compare(before, after, positives, [1, 2]):
        tables = [recall_at(r, positives, [change.k], images(5)).over_all[0].value for r in (before, after)]
        assert change.difference.value == pytest.approx(tables[1] - tables[0])


def test_mcnemar_by_hand():
    assert mcnemar(0, 0) == 1
    assert mcnemar(5, 0) == pytest.approx(2 / 2**5)
    assert mcnemar(1, 3) == pytest.approx((1 + 4 + 4 + 1) / 16)  # all but the even split of four


def test_ceiling_is_the_recall_of_the_whole_shortlist():
    assert ceiling(FOUR, FOUR_TRUTH) == 2 / 4
    assert np.isnan(ceiling(ranking(np.zeros((0, 3))), ()))


def test_summary_compares_the_last_stage_with_the_first():
    dataset = Dataset("four", "by hand", images(4), images(4, prefix="q"), FOUR_TRUTH)
    summary = summarise(dataset, {"a": FOUR, "b": FOUR, "c": AFTER}, [1, 2])
    assert list(summary.recalls) == ["a", "b", "c"]
    assert (summary.shortlist, summary.ceiling) == (3, 0.5)
    assert summary.changes[0].helped == (0,)
    assert summarise(dataset, {"a": FOUR}, [1]).changes == ()


def test_summary_needs_ground_truth_and_a_ranking():
    with pytest.raises(DataError, match="needs ground truth"):
        summarise(Dataset("d", "", images(1), images(1)), {}, [1])
    with pytest.raises(DataError, match="no ranking"):
        summarise(Dataset("d", "", images(1), images(1), truth([0])), {}, [1])


def placed(database_zone="33N", query_zone="33N"):
    database = images(2, positions=np.array([[0.0, 0.0], [3.0, 4.0]]), zone=database_zone)
    queries = images(1, positions=np.array([[0.0, 0.0]]), zone=query_zone, prefix="q")
    return Dataset("d", "", database, queries)


def test_distances_by_hand():
    assert distances_m(placed(), np.array([[1, 0, -1]])) == pytest.approx(np.array([[5, 0, np.nan]]), nan_ok=True)


def test_zones_are_not_compared_as_if_one():
    assert distances_m(placed(query_zone="32N"), np.array([[1]])) is None
    assert distances_m(Dataset("d", "", images(2), images(1, prefix="q")), np.array([[1]])) is None


def test_blocks_of_queries_change_no_answer(monkeypatch):
    rng = np.random.default_rng(5)
    rows = np.array([rng.permutation(9)[:4] for _ in range(12)])
    ranked = Ranking(rows, np.zeros((12, 4), np.float32))
    positives = [np.flatnonzero(rng.random(9) < 0.4) for _ in range(12)]
    expected = [[row in few for row in few_rows] for few_rows, few in zip(rows.tolist(), positives, strict=True)]
    for pairs in (1, 5, 1000):
        monkeypatch.setattr("vpr.evaluation.recall.PAIRS_AT_ONCE", pairs)
        assert right_candidates(ranked, positives).tolist() == expected
