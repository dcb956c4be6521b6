"""The report as a reader works it, in a headless Chromium: with a mouse, with a keyboard, on paper, on a telephone."""

import pytest
from browsers import needs_browser, opened
from test_report import matches, picture, report

from vpr.report.page import write_report

pytestmark = needs_browser


@pytest.fixture
def page(browser, tmp_path):
    """The report of a small town."""
    write_report(tmp_path / "report.html", report(), picture, matches)
    with opened(browser, tmp_path / "report.html") as page:
        yield page


def test_zooming_enlarges_the_map_and_keys_move_it(page):
    drawing, pan = page.locator(".pan svg"), page.locator(".pan")
    before = drawing.bounding_box()["width"]
    page.locator("#zoom4").check()
    assert drawing.bounding_box()["width"] == pytest.approx(4 * before, rel=0.01)
    mark = page.locator("#m0 .mark").bounding_box()["width"]
    page.locator("#zoom1").check()
    assert mark == pytest.approx(page.locator("#m0 .mark").bounding_box()["width"], rel=0.1)  # marks keep their size
    page.locator("#zoom4").check()
    pan.focus()
    for _ in range(3):
        page.keyboard.press("ArrowRight")
    page.wait_for_function("document.querySelector('.pan').scrollLeft > 0")


def test_pointing_at_a_mark_shows_its_first_candidate(page):
    line = page.locator("#m1 .first")
    assert line.evaluate("each => getComputedStyle(each).visibility") == "hidden"
    page.locator("#m1 .mark").hover()
    assert line.evaluate("each => getComputedStyle(each).visibility") == "visible"
    title = page.locator("#m1 title").text_content()
    assert "q1.jpg" in title and "d0.jpg" in title


def test_a_mark_leads_to_its_card_and_back(page):
    page.locator("#m2 .mark").click()
    assert page.url.endswith("#q2")
    assert page.locator("#q2").bounding_box()["y"] < 900
    page.locator("#q2 .to-map").click()
    assert page.url.endswith("#m2")
    assert page.locator("#m2 .first").evaluate("each => getComputedStyle(each).visibility") == "visible"


def test_matches_are_hidden_by_keyboard_only(page):
    def drawn(kind):
        return page.locator(f".pair .{kind}").first.evaluate("each => getComputedStyle(each).display") != "none"

    assert drawn("inliers") and drawn("rejected")
    page.locator("#show-rejected").focus()
    page.keyboard.press("Space")
    assert drawn("inliers") and not drawn("rejected")
    page.locator("#show-inliers").focus()
    page.keyboard.press("Space")
    assert not drawn("inliers")
    page.keyboard.press("Space")
    assert drawn("inliers")


def test_tab_comes_first_to_the_content_and_then_through_the_sections(page):
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
    assert page.locator(".skip").bounding_box()["x"] >= 0  # it shows where it has the focus
    page.keyboard.press("Enter")
    assert page.url.endswith("#content")
    page.keyboard.press("Shift+Tab")
    seen = set()
    for _ in range(60):
        page.keyboard.press("Tab")
        seen.add(page.evaluate("(document.activeElement.closest('section') || document.body).id"))
    assert {"recall", "failures", "map", "settings"} <= seen


@pytest.mark.parametrize("width", [360, 1280])
def test_nothing_sticks_out_at_the_side(page, width):
    page.set_viewport_size({"width": width, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_on_paper_all_is_black_on_white_and_nothing_is_cut(page):
    page.emulate_media(media="print", color_scheme="dark")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") in (
        "rgb(255, 255, 255)",
        "rgba(0, 0, 0, 0)",
    )
    for name in (".scroll", "pre", ".pan"):
        for each in page.locator(name).all():
            assert each.evaluate("each => each.scrollWidth <= each.clientWidth + 1"), name
    assert page.pdf(format="A4").startswith(b"%PDF")


def test_colours_follow_the_reader(page):
    light = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.emulate_media(color_scheme="dark")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != light
