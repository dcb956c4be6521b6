"""The HTML page, its figures, and the images in it."""

import base64
import dataclasses
import itertools
import re
import shutil
import subprocess
import time
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import cv2
import numpy as np
import pytest

from vpr.core import ConfigError, DataError, Dataset, Evidence, ImageSet, Ranking
from vpr.evaluation.comparison import summarise
from vpr.report.drawing import (
    GAP,
    INLIER_RGB,
    KEYPOINT_RGB,
    REJECTED_RGB,
    Correspondences,
    draw_matches,
    jpeg_uri,
    thumbnail,
)
from vpr.report.figures import MAX_MARKS, position_map, recall_curves
from vpr.report.first_candidates import draw_first_candidates
from vpr.report.gallery import MAX_LINES, SIDE, Gallery
from vpr.report.headline import headline
from vpr.report.match_images import MatchImage, write_match_image
from vpr.report.outcomes import Outcome, outcomes, shares, spread
from vpr.report.page import render, timing_rows, write_report
from vpr.report.shown import read_shown, write_shown
from vpr.report.tables import length_text
from vpr.results import RunResult
from vpr.runtime.timing import Clock, Timing

HOSTILE = (
    "<script>alert(1)</script>.jpg",
    "\"'&quot;><img src=x>.jpg",
    "sehr/" + "lang" * 200 + ".jpg",
    "東京 \u202eevil.jpg",
)
VOID = {"meta", "br", "hr", "img", "input", "link"}


class Page(HTMLParser):
    """What a reader of the page meets; fails on tags that do not nest."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.ids, self.links, self.text, self.style, self._open = [], [], [], "", "", []
        self.feed(html)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag, attributes, closed=False):
        self.tags.append(tag)
        values = dict(attributes)
        self.ids += [values["id"]] if "id" in values else []
        self.links += [values[key] for key in ("href", "src", "xlink:href") if key in values]
        assert not any(name.startswith("on") for name in values)
        if tag not in VOID and not closed:
            self._open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes, closed=True)

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        if "style" in self._open:
            self.style += data
        else:
            self.text += data


def check(html):
    """What holds for every page: nothing from outside, no script, ids unique, inner links lead somewhere."""
    page = Page(html)
    assert "script" not in page.tags
    assert len(page.ids) == len(set(page.ids))
    for link in page.links:
        assert link.startswith(("#", "data:image/jpeg;base64,"))
        assert not link.startswith("#") or link[1:] in page.ids
    assert not re.search(r"@import|url\(", page.style)
    assert " nan" not in page.text and "None" not in page.text
    return page


def picture(role, row):
    return np.full((30, 40, 3), 10 * row + (5 if role == "query" else 0), dtype=np.uint8)


def matches(query, row):
    points = np.array([[0.0, 0.0], [39.0, 29.0], [10.0, 10.0]])
    return Correspondences(points, points[::-1].copy(), np.array([True, False, True]))


def nothing(*_):
    return None


def ranking(rows, elapsed=None):
    rows = np.array(rows, dtype=np.int64).reshape(-1, 4)
    scores = np.where(rows < 0, -np.inf, -np.arange(4)).astype(np.float32)
    if elapsed is None:
        return Ranking(rows, scores)
    counts = np.full(rows.shape, 12, dtype=np.int32)
    return Ranking(rows, scores, Evidence(scores, counts * 3, counts, np.array(elapsed, dtype=np.float64)))


# Of six queries: kept, rescued, lost, ranked wrong, missed, without a positive.
BEFORE = ranking([[0, 1, 2, 3], [1, 0, 2, 3], [2, 1, 0, 3], [0, 1, 2, 3], [0, 1, 2, 3], [0, 1, 2, 3]])
AFTER = ranking(
    [[0, 1, 2, 3], [0, 1, 2, 3], [0, 1, 2, 3], [0, 2, 1, 3], [0, 1, 2, 3], [0, 1, 2, 3]], [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]
)
TRUTH = tuple(np.array(rows, dtype=np.int64) for rows in ([0], [0], [2], [1, 2], [4], []))
FATES = ("kept", "rescued", "lost", "wrong", "missed", "unanswerable")


def town(names=None, positives=TRUTH, placed=True, count=6):
    names = names or tuple(f"q{i}.jpg" for i in range(count))
    grid = np.array([[500_000.0 + 300 * i, 5_000_000.0 + 40 * i] for i in range(max(6, len(names)))])
    database = ImageSet(Path("/data"), tuple(f"d{i}.jpg" for i in range(5)), grid[:5] if placed else None, "33N")
    queries = ImageSet(Path("/data"), names, grid[: len(names)] + 7 if placed else None, "33N")
    return Dataset("Old town", "within 25 m", database, queries, positives)


def report(dataset=None, stages=None, **changes):
    return dataclasses.replace(
        RunResult(
            dataset or town(),
            stages or {"NetVLAD": BEFORE, "SuperGlue": AFTER},
            (1, 2, 4),
            '[shortlist]\nk = "4 < 5"\n',
            {"command": "vpr match --config a.toml", "machine": "two cores"},
            [Timing("describe", 2.0, 11, "image"), Timing("SuperGlue", 2.1, 6, "query")],
        ),
        **changes,
    )


def test_page_says_everything_once(tmp_path):
    write_report(tmp_path / "report.html", report(), picture, matches)
    page = check((tmp_path / "report.html").read_text(encoding="utf-8"))
    for expected in (
        "Old town",
        "within 25 m",
        "Re-ranking leaves recall@1 at 33.3\u00a0%.",
        "It helps 1 query and harms 1",
        "Queries without a positive in the database: 1 of 6",
        "answerable queries: 5",
        "The 4 candidates hold a positive for 66.7\u00a0% of the queries",
        "Shortlist missed it",
        "Re-ranking lost it",
        "Ranked wrong",
        "Rescued by re-ranking",
        "vpr match --config a.toml",
        'k = "4 < 5"',
        "12 of 36 matches verified",
        "first positive at rank 2 in the shortlist, 1 after re-ranking",
        "no positive among the 4 candidates",
        "not among the 4 candidates",
        "rank 3, was 1 in the shortlist",
        "350.0",  # milliseconds per query of SuperGlue, mean and median
    ):
        assert expected in page.text
    assert {"q0", "q1", "q2", "q3", "q4"} <= set(page.ids)
    assert "q5" not in page.ids
    assert page.links.count("#q2") == 2  # from the map and from the list of harmed queries


def test_hostile_text_is_shown_and_not_obeyed():
    names = (*HOSTILE, "q4.jpg", "q5.jpg")
    evil = dataclasses.replace(town(names), name="</title><b>", protocol="</style><b>")
    html = render(
        report(
            evil,
            {"<b>": BEFORE, "</td>&": AFTER},
            facts={"</dl>": "<b>"},
            settings_toml="</pre><b>",
            timings=[Timing("<b>", 1.0, 1, "<b>")],
        ),
        picture,
        matches,
    )
    page = check(html)
    for name in HOSTILE:
        assert name in page.text
    assert page.tags.count("b") == html.count("</b>")  # only the template's own
    assert "</title><b>" in page.text and "</style><b>" in page.text


def test_the_same_input_gives_the_same_bytes():
    assert render(report(), picture, matches) == render(report(), picture, matches)


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"failures": 0}, "Re-ranking lost it"),
        ({"dataset": town(placed=False)}, "Recall"),
        ({"dataset": town(positives=(TRUTH[5],) * 6)}, "No query has a positive in the database"),
        ({"stages": {"NetVLAD": BEFORE}}, "Recall@1 is 33.3"),
        ({"stages": {"a": BEFORE, "b": BEFORE, "c": AFTER}}, "Re-ranking leaves recall@1"),
        ({"recall_at": (4,)}, "recall@4"),
        ({"recall_at": (1, 2, 3, 4)}, "@3"),
        ({"dataset": town(count=1, positives=TRUTH[:1]), "stages": {"a": ranking([0, 1, 2, 3])}}, "1 query over"),
        ({"dataset": town(count=1, positives=TRUTH[:1]), "stages": {"a": ranking([-1] * 4)}}, "No candidate|rank"),
        ({"dataset": town(count=1, positives=None), "stages": {"a": ranking([-1] * 4)}}, "No candidate was found"),
        ({"dataset": town(count=0, positives=()), "stages": {"a": ranking([])}}, "There are no queries"),
        ({"timings": (), "facts": {}, "settings_toml": ""}, "Settings"),
    ],
)
@pytest.mark.parametrize(("pictures", "drawn"), [(picture, matches), (nothing, nothing)])
def test_degenerate_runs_make_a_page(changed, expected, pictures, drawn):
    assert re.search(expected, check(render(report(**changed), pictures, drawn)).text)


def test_pads_are_not_counted_as_candidates():
    short = ranking([[0, 1, -1, -1]] * 6)
    text = check(render(report(stages={"a": short}, recall_at=(1,)), picture, matches)).text
    assert "no positive among the 2 candidates" in text
    assert "The 2 candidates hold a positive" in text


def test_a_command_line_that_is_not_utf8_does_not_stop_the_report(tmp_path):
    write_report(tmp_path / "report.html", report(facts={"command": "vpr \udcff"}), picture, matches)
    assert "vpr ?" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_constant_scores_make_a_page():
    flat = Ranking(BEFORE.rows, np.zeros(BEFORE.rows.shape, np.float32))
    assert "score 0" in check(render(report(stages={"a": flat, "b": flat}), picture, matches)).text


def test_without_ground_truth_no_recall_is_claimed():
    page = check(render(report(town(positives=None)), picture, matches))
    assert "No ground truth" in page.text
    assert "recall@" not in page.text.lower().replace("have recall measured", "")
    assert "Failures" not in page.text and "wrong" not in page.text
    assert "rank 3" in page.text  # three candidates of each query are shown


def test_unreadable_images_are_named_as_such():
    assert "image cannot be read" in check(render(report(), nothing, nothing)).text


def test_a_report_of_nothing_is_refused():
    with pytest.raises(DataError, match="at least one ranking"):
        render(RunResult(town(), {}, (1,), "", {}), picture, matches)
    with pytest.raises(DataError, match="recall@5"):
        render(report(recall_at=(5,)), picture, matches)


def test_outcomes_by_hand():
    assert outcomes(BEFORE, AFTER, TRUTH) == FATES
    assert outcomes(BEFORE, AFTER, None) == (Outcome.UNKNOWN,) * 6
    assert outcomes(BEFORE, BEFORE, TRUTH) == ("kept", "wrong", "kept", "wrong", "missed", "unanswerable")


def test_shares_are_fair_and_complete():
    assert shares([100, 2, 5], 12) == [5, 2, 5]
    assert shares([1, 0, 1], 12) == [1, 0, 1]
    assert shares([4, 4], 0) == [0, 0]
    assert shares([], 3) == []


def test_spread_is_even_and_never_repeats():
    assert spread(list(range(100, 110)), 2) == [102, 107]
    assert spread([1, 2, 3], 5) == [1, 2, 3]
    assert spread([1, 2, 3], 0) == []
    for count in range(1, 30):
        assert len(set(spread(range(29), count))) == count


def summary(before, after, truth, ks=(1, 2)):
    stages = {"a": before} if after is None else {"a": before, "b": after}
    names = tuple(f"q{i}" for i in range(len(before)))
    return summarise(town(names, truth, placed=False), stages, ks)


def test_headline_says_gain_and_harm():
    one = (np.array([1]),)
    first, second = ranking([1, 0, 2, 3]), ranking([0, 1, 2, 3])
    assert headline(summary(second, first, one))[0] == "Re-ranking raises recall@1 from 0.0\u00a0% to 100.0\u00a0%."
    assert headline(summary(first, second, one))[0] == "Re-ranking lowers recall@1 from 100.0\u00a0% to 0.0\u00a0%."
    assert "within chance (McNemar p = 1)" in headline(summary(first, second, one))[1]
    later = headline(summary(ranking([2, 1, 0, 3]), ranking([2, 0, 1, 3]), one, (1, 2, 3)))
    assert later[0] == "Re-ranking leaves recall@1 at 0.0\u00a0%."
    assert "It lowers recall@2 from 100.0\u00a0% to 0.0\u00a0%." in later


def test_headline_keeps_small_differences_apart():
    before = ranking([[0, 1, 2, 3]] * 3000)
    rows = before.rows.copy()
    rows[0] = [1, 0, 2, 3]
    truth = (np.array([0]),) * 3000
    assert "from 100.00\u00a0% to 99.97\u00a0%" in headline(summary(before, ranking(rows), truth))[0]


def test_memory_has_a_column_where_it_is_known():
    assert "until then" not in check(render(report(), picture, matches)).text
    timings = [Timing("describe", 2.0, 11, "image", memory=3 << 30), Timing("SuperGlue", 2.1, 6, "query")]
    page = check(render(report(timings=timings), picture, matches)).text
    assert "peak memory until then, MiB" in page and "3,072" in page and "GPU memory" not in page


def test_the_clock_notes_time_and_memory():
    clock = Clock()
    with clock.stage("extract", 2, "image"):
        held = np.ones(30_000_000)
    (stage,) = clock.timings
    assert stage.seconds > 0 and stage.memory > held.nbytes and stage.median_ms is None
    clock.per_item(lambda row: time.sleep(0.002 * (1 + row)), 2)
    assert 2 <= clock.timings[0].median_ms <= clock.timings[0].slow_ms
    with clock.stage("nothing", 0, "image"):
        pass
    clock.per_item(lambda row: 1 / 0, 0)
    assert clock.timings[1].median_ms is None


def test_what_was_reused_has_no_time():
    clock = Clock()
    with clock.stage("extract", 2, "image") as stage:
        stage.reused = 2
    clock.per_item(lambda row: pytest.fail("timed what was not done"), 2)
    with clock.stage("extract", 3, "image") as stage:
        stage.reused = 2
    whole, part = clock.timings
    assert (whole.seconds, whole.reused, whole.median_ms) == (None, 2, None)
    assert part.seconds is not None and part.reused == 2
    page = check(render(report(timings=[whole, part]), picture, matches)).text
    assert "reused" in page and "3 images, 2 reused" in page


def test_unreadable_images_are_on_the_page():
    page = check(render(report(unreadable={"queries": {1: "b.jpg: truncated"}}), picture, matches)).text
    assert "1 of 6 images (queries)" in page and "b.jpg: truncated" in page


def test_timing_rows_by_hand():
    described, matched = timing_rows(report().timings, {"SuperGlue": AFTER})
    assert (described.median_ms, described.unit) == (None, "images")
    assert (matched.median_ms, matched.slow_ms, matched.unit) == (pytest.approx(350), pytest.approx(575), "queries")
    (searched,) = timing_rows([Timing("NetVLAD", 0.1, 1, "query", 0.25, 0.5)], {"NetVLAD": BEFORE})
    assert (searched.median_ms, searched.slow_ms, searched.unit) == (0.25, 0.5, "query")
    (alone,) = timing_rows([], {"NetVLAD": BEFORE, "SuperGlue": AFTER})
    assert (alone.stage, alone.seconds, alone.count) == ("SuperGlue", None, 6)


def test_curves_rise_and_end_at_the_ceiling():
    curves = recall_curves(town(), {"a": BEFORE, "b": AFTER}, (1, 2, 4), 4 / 6)
    for line in curves.lines:
        heights = [float(point.split()[1]) for point in line.path[1:].split("L")]
        assert heights == sorted(heights, reverse=True)  # y points down
        assert heights[-1] == curves.ceiling
        assert [dot.x for dot in line.dots] == [tick.at for tick in curves.x_ticks]
    assert [tick.label for tick in curves.x_ticks] == ["1", "2", "4"]
    assert recall_curves(town(positives=None), {"a": BEFORE}, (1,), 1.0) is None


def test_labels_of_an_axis_do_not_touch():
    rows = np.array([np.arange(200)])
    wide = Ranking(rows, np.zeros((1, 200), np.float32))
    database = ImageSet(Path("/"), tuple(f"{i}" for i in range(200)))
    many = Dataset("d", "p", database, ImageSet(Path("/"), ("q",)), (np.array([3]),))
    ticks = recall_curves(many, {"a": wide}, range(1, 201), 1.0).x_ticks
    assert min(b.at - a.at for a, b in itertools.pairwise(ticks)) > 20
    assert ticks[-1].label == "200"


def test_map_keeps_shape_and_scale():
    drawn = position_map(town(), [Outcome(fate) for fate in FATES], frozenset())
    at = {mark.query: np.array([mark.x, mark.y]) for mark in drawn.marks}
    east, south = at[1] - at[0]
    assert east / -south == pytest.approx(300 / 40, rel=0.02)  # north is up
    metres_per_unit = 300 / east
    assert drawn.bar * metres_per_unit == pytest.approx(200, rel=0.01)
    assert drawn.bar_label == "200 m"
    assert len(re.findall("h0", drawn.database)) == 5
    assert [mark.outcome for mark in drawn.marks][-1] == "lost"


def test_map_of_one_place_and_of_many_queries():
    place = ImageSet(Path("/"), ("d",), np.zeros((1, 2)))
    many = ImageSet(Path("/"), tuple(f"q{i}" for i in range(MAX_MARKS + 500)), np.zeros((MAX_MARKS + 500, 2)))
    drawn = position_map(Dataset("d", "", place, many), (Outcome.UNKNOWN,) * len(many), frozenset({3}))
    assert drawn.omitted in (499, 500)
    assert 3 in {mark.query for mark in drawn.marks}
    assert np.isfinite([drawn.bar, drawn.height]).all()


def test_queries_without_positions_stand_where_their_first_candidates_are():
    """The first query at the second image of the database; the second query has no candidate, so no mark."""
    placed = town(positives=None, count=2)
    lost = dataclasses.replace(placed, queries=dataclasses.replace(placed.queries, positions=None))
    fates = (Outcome.UNKNOWN,) * 2
    found = ranking([[1, 0, 2, 3], [-1] * 4])
    drawn = position_map(lost, fates, frozenset({0, 1}), found)
    here = dataclasses.replace(placed.queries, positions=placed.database.positions[[1, 1]])
    same = position_map(dataclasses.replace(placed, queries=here), fates, frozenset(), found)
    assert [(mark.query, mark.x, mark.y) for mark in drawn.marks] == [(0, same.marks[0].x, same.marks[0].y)]
    assert not drawn.placed and drawn.omitted == 0 and "first candidate d1.jpg" in drawn.marks[0].title
    assert position_map(lost, fates, frozenset()) is None
    page = check(render(report(lost, {"a": found}), picture, nothing))
    assert "marks stand where their first candidates are" in page.text
    assert "#m0" in page.links and "#m1" not in page.links


def test_no_map_across_zones_or_without_positions():
    fates = (Outcome.UNKNOWN,) * 6
    assert position_map(town(placed=False), fates, frozenset()) is None
    queries = dataclasses.replace(town().queries, zone="32N")
    assert position_map(dataclasses.replace(town(), queries=queries), fates, frozenset()) is None


def gallery(pictures=picture, drawn=matches, dataset=None):
    return Gallery(dataset or town(), BEFORE, AFTER, pictures, drawn)


def test_cards_pair_the_wrong_first_with_the_best_right():
    names = [[pair.candidate.name for pair in gallery().card(q, Outcome(FATES[q])).pairs] for q in (1, 2, 3, 4)]
    assert names == [["d1.jpg", "d0.jpg"], ["d0.jpg", "d2.jpg"], ["d0.jpg", "d2.jpg"], ["d0.jpg", "d4.jpg"]]
    judged = [[pair.candidate.right for pair in gallery().card(q, Outcome(FATES[q])).pairs] for q in (1, 2, 3, 4)]
    assert judged == [[False, True]] * 4


def test_an_unranked_right_image_is_the_nearest_else_the_middle_one():
    run = (*TRUTH[:4], np.array([2, 3, 4]), TRUTH[5])
    cut = Ranking(AFTER.rows[:, :1], AFTER.scores[:, :1])
    for placed, name in ((True, "d4.jpg"), (False, "d3.jpg")):
        cards = Gallery(town(positives=run, placed=placed), cut, cut, picture, matches)
        assert cards.card(4, Outcome.MISSED).pairs[1].candidate.name == name


def test_match_lines_join_the_pixels_they_belong_to():
    pair = gallery().card(2, Outcome.LOST).pairs[0]
    scale = SIDE / 40
    assert pair.query.height == 30 * scale
    start, end = np.array([0.5, 0.5]) * scale, np.array([10.5, 10.5]) * scale + [SIDE + GAP, 0]
    first = re.match(r"M(\S+) (\S+)l(\S+) (\S+?)(M|$)", pair.inliers[0][1]).groups()[:4]
    numbers = np.array(first, dtype=float)
    assert numbers[:2] == pytest.approx(start, abs=0.5)
    assert numbers[:2] + numbers[2:] == pytest.approx(end, abs=1.0)
    assert pair.inliers[0][1].count("M") == 2
    assert pair.rejected.count("M") == 1


def test_a_thousand_matches_are_thinned():
    def crowd(query, row):
        return Correspondences(np.zeros((1000, 2)), np.ones((1000, 2)), np.arange(1000) < 300)

    pair = gallery(drawn=crowd).card(2, Outcome.LOST).pairs[0]
    assert pair.inliers[0][1].count("M") == pair.rejected.count("M") == MAX_LINES


@pytest.mark.parametrize(
    ("metres", "text"), [(0.04, "0.0 m"), (25.03, "25.0 m"), (141.6, "142 m"), (12_345, "12.3 km")]
)
def test_lengths_have_the_digits_that_matter(metres, text):
    assert length_text(metres) == text


def nearer_to_inlier(pixel):
    return np.abs(pixel - 0.8 * np.array(INLIER_RGB)).sum() < np.abs(pixel - 0.5 * np.array(REJECTED_RGB)).sum()


def test_drawn_matches_by_hand():
    a, b = np.zeros((40, 60, 3), np.uint8), np.full((30, 50), 7, np.uint8)
    points = np.array([[5.0, 10.0], [5.0, 20.0]])
    drawn = draw_matches(a, b, Correspondences(points, points, np.array([True, False])))
    assert drawn.shape == (40, 60 + GAP + 50, 3)
    assert drawn[[10, 20], 30].min() > 0
    assert [nearer_to_inlier(drawn[y, 30]) for y in (10, 20)] == [True, False]
    assert (drawn[:, :5] == 0).all() and (drawn[15, :60] == 0).all()
    assert (drawn[35, 60:] == 255).all()
    assert (drawn[25, 68:] == 7).all()


def test_inliers_lie_above_rejected_matches():
    a = np.zeros((40, 60, 3), np.uint8)
    start, end = np.array([[5.0, 10.0]] * 2), np.array([[50.0, 10.0]] * 2)
    first, second = (
        draw_matches(a, a, Correspondences(start, end, np.array(flags))) for flags in ([True, False], [False, True])
    )
    np.testing.assert_array_equal(first, second)
    assert nearer_to_inlier(first[10, 30])


def test_no_matches_leave_the_images_as_they_are():
    a = np.arange(30 * 20 * 3, dtype=np.uint8).reshape(30, 20, 3)
    drawn = draw_matches(a, a, Correspondences(np.zeros((0, 2)), np.zeros((0, 2)), np.zeros(0, bool)))
    np.testing.assert_array_equal(drawn[:, :20], a)


def test_correspondences_of_different_lengths_are_refused():
    with pytest.raises(ValueError, match="same matches"):
        Correspondences(np.zeros((2, 2)), np.zeros((3, 2)), np.zeros(2, bool))


@pytest.mark.parametrize(("shape", "size"), [((100, 400), (80, 320)), ((900, 1), (320, 1)), ((10, 20), (10, 20))])
def test_thumbnails_fit_and_are_never_enlarged(shape, size):
    assert thumbnail(np.zeros((*shape, 3), np.uint8), 320).shape[:2] == size


def test_image_in_the_page_is_the_image():
    image = np.zeros((16, 16, 3), np.uint8)
    image[..., 0] = 200  # red in RGB
    data = base64.b64decode(jpeg_uri(image).removeprefix("data:image/jpeg;base64,"))
    back = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
    assert back[8, 8] == pytest.approx([200, 0, 0], abs=4)


@pytest.mark.browser
@pytest.mark.skipif(shutil.which("chromium") is None, reason="chromium is not installed")
@pytest.mark.parametrize("width", [400, 1280])
def test_browser_draws_the_page_without_complaint(tmp_path, width):
    write_report(tmp_path / "report.html", report(), picture, matches)
    options = (
        "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
        "--disable-component-update --disable-sync --enable-logging=stderr --hide-scrollbars"
    )
    done = subprocess.run(
        [
            "chromium",
            *options.split(),
            f"--user-data-dir={tmp_path / 'profile'}",
            f"--window-size={width},2000",
            f"--screenshot={tmp_path / 'page.png'}",
            (tmp_path / "report.html").as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert "CONSOLE" not in done.stderr
    shot = cv2.imread(str(tmp_path / "page.png"))
    assert shot.shape == (2000, width, 3)
    assert shot.std() > 10
    assert (shot[:, -8:] == 255).all()  # nothing runs over the edge


# --- match images


def match_image(**changes):
    points = np.array([[5.0, 10.0], [5.0, 20.0]])
    given = {"confidences": np.array([0.0, 1.0], np.float32)} | changes
    found = Correspondences(points, points, np.array([True, True]), **given)
    return MatchImage(np.zeros((40, 60, 3), np.uint8), np.zeros((30, 50), np.uint8), found, ("a & b",))


def test_matches_are_coloured_by_confidence():
    """Magenta at 0, yellow at 1; the caption and the legend are below."""
    drawn = match_image().drawn()
    (low, high) = drawn[10, 30].astype(int), drawn[20, 30].astype(int)
    assert high[1] - high[2] > 100 > low[1] - low[2] and low[2] > low[1]
    assert drawn.shape[0] > 80 and (drawn[60:] < 128).any()
    unknown = match_image(confidences=None).drawn()
    assert nearer_to_inlier(unknown[10, 30]) and nearer_to_inlier(unknown[20, 30])


def test_keypoints_are_drawn_where_they_are_asked_for():
    points = np.array([[45.0, 35.0]])
    assert not match_image().drawn()[35, 45].any()
    assert match_image(query_keypoints=points).drawn()[35, 45].tolist() == list(KEYPOINT_RGB)
    assert 'class="keypoints"' in match_image(candidate_keypoints=points).svg()
    assert "keypoints" not in match_image().svg()


def test_svg_holds_the_lines_and_escapes_names():
    tree = ElementTree.fromstring(match_image().svg())
    assert [len(tree.findall(f"{{http://www.w3.org/2000/svg}}{kind}")) for kind in ("image", "text")] == [2, 3]
    paths = tree.find("{http://www.w3.org/2000/svg}g[@class='inliers']")
    assert paths[0].get("d") == f"M5.50 10.50L{60 + GAP + 5.5:.2f} 10.50"
    assert paths[0].get("stroke") != paths[1].get("stroke")
    assert tree.find("{http://www.w3.org/2000/svg}text").text == "a & b"


def test_a_suffix_that_is_no_format_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"m\.doc: not an image format that can be written; use one of .*\.svg"):
        write_match_image(tmp_path / "m.doc", match_image())
    for suffix in ("png", "pdf", "svg", "webp"):
        write_match_image(tmp_path / "new" / f"m.{suffix}", match_image())
        assert (tmp_path / "new" / f"m.{suffix}").stat().st_size > 200
    with pytest.raises(ValueError, match="confidences of 2 matches"):
        match_image(confidences=np.zeros(1, np.float32))


def known(query, row):
    """Matches of three confidences, and keypoints to be shown."""
    found = matches(query, row)
    more = {"confidences": np.array([0.05, 0.5, 0.95], np.float32), "query_keypoints": np.array([[3.0, 4.0]])}
    return dataclasses.replace(found, inliers=np.array([True, False, True]), **more)


def test_a_run_in_which_all_is_right_shows_its_answers(tmp_path):
    """The right candidate with its matches by confidence and the keypoints, the next ones beside it."""
    everything = tuple(np.array([0]) for _ in range(6))
    rows = [[0, 1, 2, 3]] * 6
    one = report(town(positives=everything), {"a": ranking(rows), "b": ranking(rows)}, failures=8)
    page = check(render(one, picture, known))
    assert "Right from the start" in page.text and "2 of 6 are shown" in page.text and "#right" in page.links
    html = render(one, picture, known)
    cards = html.split("<article", 1)[1]
    assert [cards.count(f'class="inliers level{level}"') for level in range(5)] == [2, 0, 0, 0, 2]
    assert html.count('<path class="keypoints"') == 2 and html.count('id="show-inliers"') == 1
    none = check(render(dataclasses.replace(one, failures=0), picture, known))
    assert "Right from the start" not in none.text


def test_shown_matches_keep_confidences_and_keypoints(tmp_path):
    pairs = {(0, 1): known(0, 1), (2, 3): matches(2, 3)}
    write_shown(tmp_path / "shown.npz", {}, pairs)
    found = read_shown(tmp_path / "shown.npz")[1]
    np.testing.assert_array_equal(found[0, 1].confidences, np.float32([0.05, 0.5, 0.95]))
    assert found[0, 1].query_keypoints.tolist() == [[3, 4]] and found[2, 3].confidences is None
    assert found[2, 3].query_keypoints is None and found[2, 3].inliers.tolist() == [True, False, True]
    with np.load(tmp_path / "shown.npz") as file:  # as earlier versions wrote it
        old = {name: file[name] for name in file.files if name not in ("confidences", "keypoints", "keypoint_offsets")}
    np.savez(tmp_path / "old.npz", **old)
    assert read_shown(tmp_path / "old.npz")[1][0, 1].confidences is None


def test_first_candidates_are_drawn_where_they_are_asked_for(tmp_path):
    one = report(match_images=3, match_image_format="png")
    drawn = draw_first_candidates(tmp_path / "m", one, picture, known)
    assert [path.name for path in drawn] == ["000001_q1.png", "000003_q3.png", "000005_q5.png"]
    assert cv2.imread(str(drawn[0])).shape[1] == 40 + GAP + 40
    assert draw_first_candidates(tmp_path / "n", report(), picture, known) == []
    assert draw_first_candidates(tmp_path / "n", one, nothing, known) == []
    assert draw_first_candidates(tmp_path / "n", one, picture, nothing) == []
