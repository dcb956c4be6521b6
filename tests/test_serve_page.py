"""The page of `vpr serve` in Chromium, against a real server: with Leaflet where it is there, and on a plain ground."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browsers import needs_browser
from maps import LATITUDE, LONGITUDE, small_map, view
from test_serve import LIMITS, TOKEN, png

from vpr.core import ConfigError
from vpr.maps import Map
from vpr.serve import page_files
from vpr.serve.page_files import Tiles, content_policy, has_library

pytest.importorskip("fastapi", reason="fastapi, of the extra serve, is absent")
uvicorn = pytest.importorskip("uvicorn", reason="uvicorn, of the extra serve, is absent")

from vpr.serve.app import create_app  # noqa: E402
from vpr.serve.service import Service  # noqa: E402

HOSTILE = "<img src=x onerror=document.title='run'>.png"
GROUNDS = [
    "plain",
    pytest.param("leaflet", marks=pytest.mark.skipif(not has_library(), reason="needs Leaflet: make page")),
]


@pytest.fixture(scope="module")
def city(tmp_path_factory: pytest.TempPathFactory) -> Map:
    return small_map(tmp_path_factory.mktemp("page"), 4)


@pytest.fixture(scope="module")
def service(city: Map) -> Service:
    """Four images with a position, and one without whose name is HTML."""
    images = city.folder.parent / "images"
    (images / HOSTILE).write_bytes(png(view(9)))
    city.add(images, "none")
    return Service(city, LIMITS, TOKEN, images)


@pytest.fixture(scope="module")
def url(service: Service) -> Iterator[str]:
    listener = socket.create_server(("127.0.0.1", 0))
    running = uvicorn.Server(uvicorn.Config(create_app(service), log_config=None, lifespan="on"))
    thread = threading.Thread(target=running.run, kwargs={"sockets": [listener]})
    thread.start()
    while not running.started:
        time.sleep(0.02)
    yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    running.should_exit = True
    thread.join()
    listener.close()


@pytest.fixture(params=GROUNDS)
def page(request: Any, browser: Any, url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The page as it starts; a request to another host, a missing file or a message on the console fails the test."""
    if request.param == "plain":
        monkeypatch.setattr("vpr.serve.service.has_library", lambda: False)
    asked, said = [], []
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.set_default_timeout(10_000)
    page.on("request", lambda each: asked.append(each.url))
    page.on("response", lambda each: each.status >= 400 and said.append(f"{each.status} {each.url}"))
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.goto(url)
    page.locator(f"body[data-ground={request.param}]").wait_for()
    page.locator("#map .image").nth(3).wait_for(state="attached")
    yield page
    title = page.title()
    page.close()
    assert [each for each in asked if not each.startswith((url, "data:", "blob:"))] == []
    assert said == [] and title != "run"


def ask(page: Any, image: Any, name: str = "photo.png") -> str:
    page.set_input_files("#file", {"name": name, "mimeType": "image/png", "buffer": image})
    page.locator("#strip li").first.wait_for()
    return str(page.text_content("#said"))


def wait_for(page: Any, where: str, text: str) -> None:
    page.locator(where, has_text=text).wait_for()


@needs_browser
def test_a_photograph_gets_its_place_on_the_map_and_its_candidates(page: Any) -> None:
    assert page.text_content("#about") == "Asked of a map of 5 images."
    said = ask(page, png(view(2, shift=8)))
    assert f"{LATITUDE + 0.0018:.6f}, {LONGITUDE:.6f}" in said and "As 002.png" in said
    assert page.locator("#map .answer").count() == 1
    assert page.locator("#map .candidate").count() == 4  # the fifth has no position
    assert "002.png" in page.locator("#strip button").first.text_content()
    page.locator("#strip img").first.evaluate("each => each.decode()")  # it is shown


@needs_browser
def test_a_candidate_opens_with_the_lines_of_its_matches(page: Any, city: Map, tmp_path: Path) -> None:
    photo = tmp_path / "photo.png"
    photo.write_bytes(png(view(2, shift=8)))
    first, second = city.locate(photo).candidates[:2]
    ask(page, photo.read_bytes())
    page.locator("#strip button").first.focus()
    page.keyboard.press("Enter")
    page.locator("#drawing svg").wait_for()
    assert page.locator("#drawing .inliers line").count() == first.inliers
    assert f"{first.inliers} inliers of {first.matches} matches" in page.text_content("#pair-said")
    assert page.locator("#drawing image").count() == 2
    assert page.locator(".rejected").is_hidden()
    page.locator("#rejected").check()
    assert first.matches is not None and first.inliers is not None
    assert page.locator(".rejected line").count() == first.matches - first.inliers
    page.locator("#next").click()
    wait_for(page, "#pair-title", second.name)
    page.keyboard.press("Escape")
    assert page.locator("#pair").is_hidden()


@needs_browser
def test_a_click_on_the_map_restricts_the_question(page: Any) -> None:
    box = page.locator("#map").bounding_box()
    ask(page, png(view(2, shift=8)))
    page.locator("#radius").fill("1")
    page.mouse.click(box["x"] + box["width"] * 0.3, box["y"] + box["height"] * 0.5)
    wait_for(page, "#said", "Not here")
    assert abs(float(page.input_value("#lat")) - LATITUDE) < 0.01
    assert page.locator("#map .prior").count() == 1 and page.locator("#candidates").is_hidden()
    page.locator("#forget").click()
    page.locator("#strip li").first.wait_for()
    assert page.input_value("#lat") == "" and page.locator("#map .prior").count() == 0


@needs_browser
def test_everything_works_by_keyboard(page: Any) -> None:
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the question"
    seen = set()
    for _ in range(20):
        page.keyboard.press("Tab")
        seen.add(page.evaluate("document.activeElement.id"))
    assert {"file", "lat", "lon", "radius", "centre", "forget", "map"} <= seen
    page.locator("#centre").focus()
    page.keyboard.press("Enter")
    before = float(page.input_value("#lat"))
    page.locator("#map").focus()
    page.keyboard.press("ArrowUp")
    page.wait_for_timeout(500)  # Leaflet moves gradually
    page.locator("#centre").press("Enter")
    assert float(page.input_value("#lat")) > before


@needs_browser
def test_names_are_text_and_mistakes_are_sentences(page: Any) -> None:
    said = ask(page, png(view(9, shift=6)), name="<b>photo</b>.png")
    assert HOSTILE in said and HOSTILE in page.locator("#strip button").first.text_content()
    assert page.text_content("#photo-name") == "<b>photo</b>.png"
    page.locator("#lat").fill("91")
    page.locator("#lon").fill("1")
    page.locator("#lon").blur()
    assert "-90 to 90" in page.text_content("#wrong")


@needs_browser
def test_what_the_server_refuses_is_said(browser: Any, url: str) -> None:
    page = browser.new_page()
    page.goto(url)
    page.locator("body[data-ground]").wait_for()
    page.set_input_files("#file", {"name": "a.png", "mimeType": "image/png", "buffer": b"no image"})
    wait_for(page, "#wrong", "not an image")
    page.set_input_files("#file", {"name": "a.png", "mimeType": "image/png", "buffer": bytes(600_000)})
    wait_for(page, "#wrong", "takes 0.5 MB")
    page.close()


@needs_browser
def test_a_photograph_is_dropped_or_pasted(page: Any) -> None:
    for event, holder in (("drop", "dataTransfer"), ("paste", "clipboardData")):
        page.evaluate(
            """async ([event, holder, address]) => {
                const data = new DataTransfer();
                const image = await (await fetch(address)).blob();
                data.items.add(new File([image], event + ".jpg", { type: "image/jpeg" }));
                const made = holder === "dataTransfer" ? new DragEvent(event, { dataTransfer: data, bubbles: true })
                    : new ClipboardEvent(event, { clipboardData: data, bubbles: true });
                document.body.dispatchEvent(made);
            }""",
            [event, holder, "v1/images/2/thumbnail"],
        )
        wait_for(page, "#photo-name", f"{event}.jpg")
        wait_for(page, "#said", "001.png")


@needs_browser
def test_it_fits_a_phone_and_follows_the_colours_of_the_reader(page: Any) -> None:
    light = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.emulate_media(color_scheme="dark")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != light
    page.set_viewport_size({"width": 360, "height": 740})
    ask(page, png(view(2, shift=8)))
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    assert page.locator("#map").bounding_box()["height"] > 300
    assert page.locator("#camera").get_attribute("capture") == "environment"
    assert page.locator(".camera").is_visible()
    page.locator("#strip button").first.click()
    box = page.locator("#drawing svg").bounding_box()
    assert box["height"] > box["width"]  # the images stand one above the other


def test_addresses_of_tiles(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert "tile" not in content_policy(None)
    policy = content_policy(Tiles("https://{s}.tile.example/{z}/{x}/{y}.png"))
    assert policy.count("https://*.tile.example;") == 1
    for wrong in ("file:///{z}/{x}/{y}", "https://tile.example/{z}/{x}", "https://a.example; script-src *//{z}{x}{y}"):
        with pytest.raises(ConfigError, match=r"https://tiles\.example"):
            Tiles(wrong)
    assert not has_library(tmp_path) and page_files.page_files(tmp_path) == {}


def test_only_files_of_the_page_are_given(service: Service) -> None:
    testclient = pytest.importorskip("fastapi.testclient", reason="the test client of fastapi is absent")
    client = testclient.TestClient(create_app(service))
    assert "script-src 'self';" in client.get("/").headers["content-security-policy"]
    assert client.get("/page/main.js").headers["content-type"].startswith("text/javascript")
    for other in ("package.json", "vendor.mjs", "..%2Fapp.py", "../app.py", "vendor/", ""):
        assert client.get(f"/page/{other}").status_code == 404
