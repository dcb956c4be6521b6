"""A map over HTTP: the answers of the map, and a sentence for whoever sends anything else."""

from __future__ import annotations

import dataclasses
import json
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from maps import LATITUDE, LONGITUDE, empty_map, small_map, view, write_images

import vpr
from vpr.cli.serve import TOKEN_VARIABLE, read_token, serve
from vpr.core import ConfigError, DataError, ImageError
from vpr.datasets.placed import PlacedImage, Position
from vpr.maps import Answer, Map
from vpr.maps.export import location_text
from vpr.maps.manifest import Manifest
from vpr.serve.limits import Limits
from vpr.serve.overview import clusters
from vpr.serve.problems import Paths

pytest.importorskip("fastapi", reason="fastapi, of the extra serve, is absent")
pytest.importorskip("uvicorn", reason="uvicorn, of the extra serve, is absent")
pytest.importorskip("prometheus_client", reason="prometheus-client, of the extra serve, is absent")
testclient = pytest.importorskip("fastapi.testclient", reason="the test client of fastapi is absent")

from vpr.serve.app import create_app  # noqa: E402
from vpr.serve.service import Service  # noqa: E402

TOKEN = "correct-horse-battery-staple"
BEARER = {"Authorization": f"Bearer {TOKEN}"}
EVERYWHERE = (-90.0, 90.0, -180.0, 180.0)  # south, north, west, east
LIMITS = Limits(upload_bytes=500_000, megapixels=1.0, seconds=20, waiting=4)


def png(image: np.ndarray[Any, Any]) -> bytes:
    return cv2.imencode(".png", image[..., ::-1])[1].tobytes()


def bomb(side: int = 30_000) -> bytes:
    """A PNG whose header promises a huge image."""
    header = b"IHDR" + struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header)) + b"\0" * 50


def same(one: Answer, other: Answer) -> bool:
    """Whether two answers differ by the time they took alone."""
    return dataclasses.replace(one, elapsed_ms={}) == dataclasses.replace(other, elapsed_ms={})


@pytest.fixture(scope="module")
def city(tmp_path_factory: pytest.TempPathFactory) -> Map:
    """Six places; not to be changed."""
    return small_map(tmp_path_factory.mktemp("served"))


@pytest.fixture(scope="module")
def service(city: Map) -> Service:
    return Service(city, LIMITS, images=city.folder.parent / "images")


@pytest.fixture(scope="module")
def client(service: Service) -> Iterator[Any]:
    with testclient.TestClient(create_app(service)) as made:
        yield made


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[Any]:
    """A client of a map of two places that may be changed."""
    service = Service(small_map(tmp_path, 2), LIMITS, TOKEN)
    with testclient.TestClient(create_app(service)) as made:
        made.service = service
        yield made


def problem(response: Any, status: int) -> str:
    """The sentence of a problem+json, which names no path of the server."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    body = response.json()
    assert body["status"] == status and body["title"] and body["type"] == "about:blank"
    assert "/tmp" not in response.text and "served" not in response.text
    return str(body["detail"])


def ask(client: Any, image: Any, **fields: Any) -> Any:
    return client.post("/v1/locate", files={"image": ("a.png", image)}, data={k: str(v) for k, v in fields.items()})


def test_the_answer_is_that_of_the_map(client: Any, city: Map, tmp_path: Path) -> None:
    from vpr.serve.client import answer_of

    photo = tmp_path / "photo.png"
    photo.write_bytes(png(view(3, shift=8)))
    answered = answer_of(ask(client, photo.read_bytes(), k=4).json())
    assert same(answered, city.locate(photo, k=4)) and answered.here and answered.candidates[0].name == "003.png"
    near = answer_of(ask(client, photo.read_bytes(), lat=LATITUDE, lon=LONGITUDE, radius_m=150).json())
    assert {each.name for each in near.candidates} == {"000.png", "001.png"}
    late = answer_of(ask(client, photo.read_bytes(), since="2024-05-01T04:00:00Z").json())
    assert {each.name for each in late.candidates} == {"004.png", "005.png"}


@pytest.mark.parametrize(
    ("image", "status", "said"),
    [
        (bomb(), 413, "30000 x 30000 is more than 1 megapixels"),
        (png(view(1))[:2000], 422, "truncated"),
        (b"just a text", 415, "not an image"),
        (b"<svg onload=alert(1)>", 415, "not an image"),
        (b"", 422, "empty"),
        (b"\xff\xd8\xff" + bytes(600_000), 413, "more than 0.5 MB"),
    ],
)
def test_a_hostile_upload_gets_a_sentence(client: Any, image: bytes, status: int, said: str) -> None:
    assert said in problem(ask(client, image), status)


@pytest.mark.parametrize("in_address", [True, False])
def test_clients_of_place_recognition_api_are_answered(client: Any, city: Map, in_address: bool) -> None:
    rank = {"params" if in_address else "data": {"rank": "3"}}
    answer = client.post("/do_ranking/", files={"file": ("a.png", png(view(3, shift=8)))}, **rank)
    rows = answer.json()
    assert answer.status_code == 200 and len(rows) == 3 and rows[0]["file_name"] == "003.png"
    image = next(city.images("name = '003.png'"))
    assert rows[0]["location"] == location_text(image.position) and rows[0]["date_taken"] == "2024-05-01T03:00:00Z"
    assert len(client.post("/do_ranking/", files={"file": ("a.png", png(view(3)))}).json()) == 2
    assert "unknown field 'image'" in problem(client.post("/do_ranking/", files={"image": ("a.png", b"x")}), 422)
    assert "rank = '0'" in problem(client.post("/do_ranking/?rank=0", files={"file": ("a.png", png(view(3)))}), 422)


def test_a_turned_photograph_is_tried_at_the_rotations_of_the_form(client: Any) -> None:
    turned = png(np.rot90(view(3), -1).copy())
    answer = ask(client, turned, rotations="90,0").json()  # both verify: SIFT knows its orientation
    assert answer["rotation"] == 90 and answer["candidates"][0]["name"] == "003.png"
    for text in ("45", "90,90", "left", ","):
        assert "rotations" in problem(ask(client, turned, rotations=text), 422)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"lat": 55.7}, "give both"),
        ({"lat": "nan", "lon": 1}, "give a number"),
        ({"lat": 91, "lon": 1}, "latitude"),
        ({"radius_m": 10}, "without a place"),
        ({"lat": 1, "lon": 1, "radius_m": -1}, "more than 0"),
        ({"k": 0}, "from 1 to 100"),
        ({"k": 10**30}, "from 1 to 100"),
        ({"k": "²"}, "from 1 to 100"),
        ({"since": "yesterday"}, "2024-01-31T23:59:59Z"),
        ({"latitude": 1}, "unknown field 'latitude'; known: image, lat"),
    ],
)
def test_fields_that_make_no_sense_are_refused(client: Any, fields: dict[str, Any], said: str) -> None:
    assert said in problem(ask(client, png(view(1)), **fields), 422)


def test_other_forms_are_refused(client: Any) -> None:
    data = png(view(1))
    assert "multipart" in problem(client.post("/v1/locate", content=data, headers={"Content-Type": "image/png"}), 415)
    assert "multipart" in problem(client.post("/v1/locate"), 415)
    assert "no field 'image'" in problem(client.post("/v1/locate", data={"lat": "1"}, files={"lon": (None, "1")}), 422)
    assert "as a file" in problem(client.post("/v1/locate", files={"image": (None, "text")}), 422)
    assert "image=@photo.jpg" in problem(client.post("/v1/locate", files={"image": (None, bytes(20_000))}), 422)
    assert "text, not a file" in problem(client.post("/v1/locate", files={"lat": ("a.png", data)}), 422)
    assert "unknown field 'photo'" in problem(client.post("/v1/locate", files={"photo": ("a.png", data)}), 422)
    two = [("image", ("a.png", data)), ("image", ("b.png", data))]
    assert "cannot be read" in problem(client.post("/v1/locate", files=two), 422)
    assert "none in the address" in problem(client.post("/v1/locate?lat=1", files={"image": data}), 422)
    for kind in ("multipart/form-data", "multipart/form-data; boundary=x"):
        refused = client.post("/v1/locate", content=b"no form", headers={"Content-Type": kind})
        assert problem(refused, 422)


def test_addresses_that_do_not_exist(client: Any) -> None:
    assert "/docs" in problem(client.get("/v1/nothing"), 404)
    assert "/docs" in problem(client.get("/v1/locate"), 405)
    assert "no image 77" in problem(client.get("/v1/images/77"), 404)
    for wrong in ("0", "-1", "x", "99999999999999999999999"):
        assert problem(client.get(f"/v1/images/{wrong}"), 422)
    assert client.get("/healthz").json() == {"status": "ok", "images": 6}
    assert "access-control-allow-origin" not in client.get("/healthz", headers={"Origin": "http://a.example"}).headers


def test_the_matches_of_a_candidate_are_those_of_the_answer(client: Any) -> None:
    photo = png(view(3, shift=8))
    first = ask(client, photo).json()["candidates"][0]
    sent = client.post("/v1/matches", files={"image": ("a.png", photo)}, data={"id": str(first["id"])})
    found = sent.json()
    assert (found["name"], found["inliers"], len(found["matches"])) == ("003.png", first["inliers"], first["matches"])
    assert found["query"] == found["candidate"] == {"width": 160, "height": 120}
    assert sum(each["inlier"] for each in found["matches"]) == first["inliers"]
    moves = [np.subtract(each["candidate"], each["query"]) for each in found["matches"] if each["inlier"]]
    assert np.allclose(np.median(moves, axis=0), 8, atol=0.5)  # as the photograph was moved
    for fields, status, said in (({}, 422, "'id'"), ({"id": "77"}, 404, "no image 77"), ({"id": "x"}, 422, "id")):
        refused = client.post("/v1/matches", files={"image": ("a.png", photo)}, data=fields)
        assert said in problem(refused, status)
    refused = client.post("/v1/matches", files={"image": ("a.png", b"text")}, data={"id": "1"})
    assert "not an image" in problem(refused, 415)


def test_a_map_that_compares_nothing_has_no_matches(tmp_path: Path) -> None:
    service = Service(small_map(tmp_path, 1, rerank={"k": 0}), LIMITS)
    with testclient.TestClient(create_app(service)) as client:
        sent = client.post("/v1/matches", files={"image": ("a.png", png(view(0)))}, data={"id": "1"})
        assert "rerank.k = 0" in problem(sent, 409)


def test_added_images_have_thumbnails_until_they_are_removed(writer: Any) -> None:
    files = {"image": ("new.png", png(view(9)))}
    record = writer.post("/v1/images", files=files, headers=BEARER).json()
    small = writer.get(record["thumbnail"], params={"longest": 80})
    assert cv2.imdecode(np.frombuffer(small.content, np.uint8), cv2.IMREAD_COLOR).shape == (60, 80, 3)
    assert problem(writer.get(record["thumbnail"], params={"longest": 10**6}), 422)
    held = writer.service.map
    kept = held.folder / "thumbnails" / f"{record['id']}.jpg"
    assert kept.is_file() and held.verify() == []
    assert writer.delete("/v1/images/new.png", headers=BEARER).status_code == 204
    assert not kept.exists() and problem(writer.get(record["thumbnail"]), 404)
    kept.write_bytes(b"of an image that another process removed")
    Service(held, LIMITS)
    assert not kept.exists()


def test_the_record_of_an_image(client: Any, city: Map) -> None:
    image = next(city.images("name = '003.png'"))
    record = client.get(f"/v1/images/{image.id}").json()
    assert record["name"] == "003.png" and record["heading"] == 30 and record["columns"]["camera"] == "left"
    assert record["position"]["latitude"] == pytest.approx(LATITUDE + 0.0027)


def test_the_thumbnail_of_an_image(client: Any, city: Map, writer: Any) -> None:
    image = next(city.images("name = '003.png'"))
    address = client.get(f"/v1/images/{image.id}").json()["thumbnail"]
    response = client.get(address)
    assert response.headers["content-type"] == "image/jpeg"
    shown = cv2.imdecode(np.frombuffer(response.content, np.uint8), cv2.IMREAD_COLOR_RGB)
    assert np.abs(shown.astype(int) - view(3)).mean() < 5
    assert writer.get("/v1/images/1").json()["thumbnail"] is None
    assert "--images" in problem(writer.get("/v1/images/1/thumbnail"), 404)
    assert problem(client.get("/v1/images/99/thumbnail"), 404)
    hidden = city.folder.parent / "images" / "003.png"
    hidden.rename(hidden.with_suffix(".away"))
    try:
        assert "no such image" in problem(client.get(address), 404)
    finally:
        hidden.with_suffix(".away").rename(hidden)


def names_within(client: Any, bbox: str) -> list[str]:
    found = client.get("/v1/map", params={"bbox": bbox})
    assert found.headers["content-type"] == "application/geo+json"
    return sorted(each["properties"]["name"] for each in found.json()["features"])


def test_the_map_within_a_box(client: Any) -> None:
    first = client.get("/v1/map").json()["features"][0]
    assert first["geometry"] == {"type": "Point", "coordinates": [LONGITUDE, LATITUDE]}
    assert len(client.get("/v1/map").json()["features"]) == 6
    assert names_within(client, f"13,{LATITUDE - 0.001},14,{LATITUDE + 0.001}") == ["000.png", "001.png"]
    assert names_within(client, f"13.2,{LATITUDE},13.2,{LATITUDE}") == ["000.png"]
    assert names_within(client, f"170,50,13.3,{LATITUDE}") == ["000.png"]  # across 180 degrees
    assert names_within(client, "14,50,13,60") == []
    for wrong in ("", "1,2,3", "a,b,c,d", "nan,0,1,1", "0,50,1,40", "0,0,1,100", "-200,0,1,1"):
        assert "west,south,east,north" in problem(client.get("/v1/map", params={"bbox": wrong}), 422)
    assert problem(client.get("/v1/map?limit=0"), 422)


def test_a_map_of_many_images_is_clustered(client: Any, tmp_path: Path) -> None:
    features = client.get("/v1/map?limit=4").json()["features"]
    assert 1 <= len(features) <= 4 and sum(each["properties"].get("count", 1) for each in features) == 6
    random = np.random.default_rng(0)
    degrees = np.stack([random.uniform(55, 56, 5000), random.uniform(-179.9, 179.9, 5000)], axis=1)
    manifest = Manifest(tmp_path, create=True)
    manifest.begin({})
    places = [Position(latitude, longitude, None, None, None) for latitude, longitude in degrees.tolist()]
    manifest.insert([PlacedImage(str(row), place) for row, place in enumerate(places)], [""] * 5000, 1)
    for limit, boxes in ((4, [EVERYWHERE]), (100, [EVERYWHERE]), (999, [(-90, 90, -180, 0), (-90, 90, 0, 180)])):
        found = clusters(manifest, boxes, manifest.spread(boxes)[1], limit)
        counts = np.array([each["properties"].get("count", 1) for each in found])
        assert len(found) <= limit and counts.sum() == 5000
        centres = np.array([each["geometry"]["coordinates"] for each in found])
        assert np.allclose((centres * counts[:, None]).sum(axis=0) / 5000, degrees.mean(axis=0)[::-1], atol=1e-4)
    assert manifest.spread([(0, 1, 0, 1)]) == (0, 0.0)
    manifest.insert([PlacedImage(f"same{row}", places[0]) for row in range(9)], [""] * 9, 2)
    south, west = degrees[0] - 1e-4
    box = (south, south + 2e-4, west, west + 2e-4)
    (one,) = clusters(manifest, [box], manifest.spread([box])[1], 4)
    assert one["properties"]["count"] == 10  # all at one place
    manifest.close()


def test_requests_are_counted_by_endpoint(writer: Any) -> None:
    ask(writer, png(view(1)))
    ask(writer, b"text")
    for address in ("/v1/images/1", "/v1/images/2", "/invented", "/also"):
        assert writer.get(address).headers["x-content-type-options"] == "nosniff"
    text = writer.get("/metrics").text
    assert 'vpr_requests_total{endpoint="POST /v1/locate",status="200"} 1.0' in text
    assert 'vpr_requests_total{endpoint="POST /v1/locate",status="415"} 1.0' in text
    assert 'vpr_requests_total{endpoint="GET /v1/images/{number}",status="200"} 2.0' in text
    assert 'vpr_requests_total{endpoint="other",status="404"} 2.0' in text and "invented" not in text
    assert "vpr_map_images 2.0" in text and "vpr_waiting 0.0" in text


def test_the_page_of_endpoints_has_all_and_asks_no_other_host(client: Any) -> None:
    page = client.get("/docs").text
    for address in ("/v1/locate", "/v1/images/{number}/thumbnail", "/v1/map", "/metrics", "radius_m", "bbox"):
        assert address in page
    assert "http://" not in page and "https://" not in page and "<script" not in page


def test_without_a_token_nothing_is_changed(client: Any, writer: Any) -> None:
    files = {"image": ("new.png", png(view(9)))}
    assert "--token-file" in problem(client.post("/v1/images", files=files, headers=BEARER), 403)
    assert "--token-file" in problem(client.delete("/v1/images/003.png", headers=BEARER), 403)
    for header in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": TOKEN}, {"Authorization": "Basic \xe9"}):
        encoded = {name: value.encode("latin-1") for name, value in header.items()}
        refused = writer.post("/v1/images", files=files, headers=encoded)
        assert "token" in problem(refused, 401) and refused.headers["www-authenticate"] == "Bearer"
        assert "token" in problem(writer.delete("/v1/images/000.png", headers=encoded), 401)
    assert len(writer.service.map) == 2


def test_images_are_added_and_removed(writer: Any) -> None:
    name = "drive 7/<b>ü'.png"
    place = {"lat": "55.71", "lon": "13.21", "heading": "-10", "time": "2024-06-01", "name": name}
    added = writer.post("/v1/images", files={"image": ("x", png(view(9)))}, data=place, headers=BEARER)
    assert added.status_code == 201 and added.headers["location"] == f"/v1/images/{added.json()['id']}"
    assert added.json()["name"] == name and added.json()["heading"] == 350
    answer = ask(writer, png(view(9, shift=6))).json()
    assert answer["candidates"][0]["name"] == name and answer["position"]["latitude"] == 55.71
    again = writer.post("/v1/images", files={"image": ("x", png(view(9)))}, data=place, headers=BEARER)
    assert again.status_code == 200 and again.json()["id"] == added.json()["id"]
    address = "/v1/images/drive%207/%3Cb%3E%C3%BC'.png"
    assert writer.delete(address, headers=BEARER).status_code == 204
    for other in (address, "/v1/images/" + "a" * 12_000, "/v1/images/", "/v1/images/%00'--", "/v1/images/%FF"):
        assert "no image" in problem(writer.delete(other, headers=BEARER), 404)
    assert not ask(writer, png(view(9, shift=6))).json()["here"]
    assert writer.service.map.verify() == []


@pytest.mark.parametrize(
    ("image", "fields", "status"),
    [
        (png(view(9)), {"name": "../../etc/passwd"}, 422),
        (png(view(9)), {"name": "/etc/passwd"}, 422),
        (png(view(9)), {"name": "a\0b.png"}, 422),
        (png(view(9)), {"name": "a" * 300}, 422),
        (png(view(9)), {"name": "."}, 422),
        (png(view(9)), {"name": "C:\\windows\\a.png"}, 422),
        (png(view(9)), {"name": "a\\..\\..\\a.png"}, 422),
        (png(view(9)), {"lat": "100", "lon": "0"}, 422),
        (png(view(9)), {"time": "soon"}, 422),
        (png(view(9)), {"heading": "north"}, 422),
        (bomb(), {}, 413),
        (b"text", {}, 415),
        (png(view(9))[:2000], {}, 422),
    ],
)
def test_a_bad_image_is_not_added(writer: Any, image: bytes, fields: dict[str, str], status: int) -> None:
    response = writer.post("/v1/images", files={"image": ("a.png", image)}, data=fields, headers=BEARER)
    assert problem(response, status)
    assert len(writer.service.map) == 2


def test_what_another_process_commits_is_seen_and_one_that_writes_is_waited_for(writer: Any) -> None:
    from vpr.maps.writing import LOCK
    from vpr.runtime.files import exclusive_lock

    held = writer.service.map
    with exclusive_lock(held.folder / LOCK):
        refused = writer.post("/v1/images", files={"image": ("a.png", png(view(9)))}, headers=BEARER)
        assert problem(refused, 409).startswith("map: another process is changing")
    with Map(held.folder) as other:
        other.remove(["001.png"])
    assert writer.get("/healthz").json()["images"] == 1


def test_an_error_of_the_files_names_no_path(tmp_path: Path) -> None:
    held = small_map(tmp_path, 2)
    served = Map(held.folder)
    held.add(write_images(tmp_path / "more", range(2, 4)), "none")
    shutil.rmtree(sorted(held.folder.glob("segments/*"))[-1])
    with testclient.TestClient(create_app(Service(served, LIMITS))) as client:
        assert problem(ask(client, png(view(1))), 500).startswith("map/segments/")
        assert problem(client.get("/healthz"), 500)


def test_a_defect_is_said_without_details(client: Any, service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("secret at /tmp/x")

    monkeypatch.setattr(service.map, "locate", broken)
    quiet = testclient.TestClient(client.app, raise_server_exceptions=False)
    with quiet:
        assert problem(ask(quiet, png(view(1))), 500) == "this is a defect of the server, not of the request"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/srv/my maps/city: no image 'a'", "map: no image 'a'"),
        ("/srv/my maps/city/manifest.sqlite: damaged", "map/manifest.sqlite: damaged"),
        ("'/home/me/weights/a.safetensors' is missing", "'a.safetensors' is missing"),
        ("give C:\\Users\\me\\a.csv, or drive7/a.jpg", "give a.csv, or drive7/a.jpg"),
        ("see https://example.org/a/b, 3 m/s", "see https://example.org/a/b, 3 m/s"),
    ],
)
def test_paths_are_taken_out_of_sentences(text: str, expected: str) -> None:
    assert Paths({Path("/srv/my maps/city"): "map"}).removed(text) == expected


class Blocked:
    """A map whose answers wait until they are let go."""

    def __init__(self, service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
        self.begun, self.let_go, self.asked = threading.Event(), threading.Event(), 0
        self._locate = service.map.locate
        monkeypatch.setattr(service.map, "locate", self)

    def __call__(self, *arguments: Any, **named: Any) -> Answer:
        self.asked += 1
        self.begun.set()
        assert self.let_go.wait(30)
        return self._locate(*arguments, **named)


def until(condition: Any) -> None:
    for _ in range(500):
        if condition():
            return
        time.sleep(0.02)
    raise AssertionError("did not happen within 10 s")


def test_more_than_may_wait_are_told_to_come_back(writer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    service: Service = writer.service
    blocked = Blocked(service, monkeypatch)
    statuses: list[int] = []
    threads = [
        threading.Thread(target=lambda: statuses.append(ask(writer, png(view(1))).status_code))
        for _ in range(LIMITS.waiting)
    ]
    for thread in threads:
        thread.start()
    until(lambda: service.worker.waiting == LIMITS.waiting)
    refused = ask(writer, png(view(1)))
    assert "wait already" in problem(refused, 503) and int(refused.headers["retry-after"]) > 0
    assert writer.get("/healthz").status_code == 200  # the event loop is free
    blocked.let_go.set()
    for thread in threads:
        thread.join()
    assert statuses == [200] * LIMITS.waiting and service.worker.waiting == 0


def test_an_answer_that_takes_too_long_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    service = Service(small_map(tmp_path, 2), dataclasses.replace(LIMITS, seconds=0.3))
    blocked = Blocked(service, monkeypatch)
    with testclient.TestClient(create_app(service)) as client:
        assert "within 0.3 s" in problem(ask(client, png(view(1))), 503)
        assert "within 0.3 s" in problem(ask(client, png(view(1))), 503)
        blocked.let_go.set()
        until(lambda: service.worker.waiting == 0)
    assert blocked.asked == 1  # the second was not computed after it had been given up


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[str, Service]]:
    """A real server on loopback."""
    import uvicorn

    service = Service(small_map(tmp_path, 3), dataclasses.replace(LIMITS, seconds=2), TOKEN)
    listener = socket.create_server(("127.0.0.1", 0))
    running = uvicorn.Server(uvicorn.Config(create_app(service), log_config=None, lifespan="on"))
    thread = threading.Thread(target=running.run, kwargs={"sockets": [listener]})
    thread.start()
    until(lambda: running.started)
    yield f"http://127.0.0.1:{listener.getsockname()[1]}", service
    running.should_exit = True
    thread.join()
    listener.close()


def test_the_python_client_answers_as_the_map(server: tuple[str, Service], tmp_path: Path) -> None:
    url, service = server
    client = vpr.Client(url + "/", TOKEN + "\n")
    photo = tmp_path / "photo.png"
    photo.write_bytes(png(view(1, shift=8)))
    asked: dict[str, Any] = {"near": (LATITUDE, LONGITUDE), "radius_m": 1000, "k": 2}
    answer = client.locate(photo, **asked)
    assert same(answer, service.map.locate(photo, **asked))
    assert same(answer, client.locate(view(1, shift=8), **asked))  # an array is sent as PNG
    record = client.add(view(9), "a b/9.png", position=(55.8, 13.3), time="2024-01-01")
    assert record["name"] == "a b/9.png" and client.locate(view(9, shift=5)).candidates[0].name == "a b/9.png"
    client.remove("a b/9.png")
    assert len(service.map) == 3


def test_the_python_client_says_what_the_server_says(server: tuple[str, Service], tmp_path: Path) -> None:
    url, _ = server
    (tmp_path / "text.jpg").write_text("no image")
    client = vpr.Client(url)
    with pytest.raises(ImageError, match="not an image"):
        client.locate(tmp_path / "text.jpg")
    with pytest.raises(ImageError, match=r"absent\.jpg: no such image"):
        client.locate(tmp_path / "absent.jpg")
    with pytest.raises(ConfigError, match="radius_m = 5 without a place"):
        client.locate(view(1), radius_m=5)
    with pytest.raises(ConfigError, match="token"):
        client.remove("000.png")
    with pytest.raises(DataError, match="nothing lies"):
        vpr.Client(url + "/elsewhere").locate(view(1))
    for address in ("file:///etc/passwd", "127.0.0.1:8000", "http://[::1", ""):
        with pytest.raises(ConfigError, match=r"http://127\.0\.0\.1:8000"):
            vpr.Client(address)
    with pytest.raises(ConfigError, match="token"):
        vpr.Client(url, "two\nlines")
    with pytest.raises(DataError, match="no answer"):
        vpr.Client("http://127.0.0.1:port").locate(view(1))
    with socket.create_server(("127.0.0.1", 0)) as closed:
        nobody = f"http://127.0.0.1:{closed.getsockname()[1]}"
    with pytest.raises(DataError, match="no answer"):
        vpr.Client(nobody).locate(view(1))


def raw(url: str, head: str, body: bytes = b"") -> socket.socket:
    host, port = url.removeprefix("http://").split(":")
    connection = socket.create_connection((host, int(port)), timeout=20)
    connection.sendall(f"POST /v1/locate HTTP/1.1\r\nHost: a\r\n{head}\r\n\r\n".encode() + body)
    return connection


MULTIPART = "Content-Type: multipart/form-data; boundary=x"


def test_a_huge_body_is_refused_before_it_is_sent(server: tuple[str, Service]) -> None:
    with raw(server[0], f"{MULTIPART}\r\nContent-Length: 50000000") as connection:
        assert connection.recv(1000).startswith(b"HTTP/1.1 413 ")


def test_a_huge_body_of_unknown_length_is_refused_while_it_is_read(server: tuple[str, Service]) -> None:
    start = b'--x\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n' + bytes(600_000)
    chunk = f"{len(start):x}\r\n".encode() + start + b"\r\n"
    with raw(server[0], f"{MULTIPART}\r\nTransfer-Encoding: chunked", chunk) as connection:
        assert connection.recv(1000).startswith(b"HTTP/1.1 413 ")


def test_a_slow_sender_is_not_waited_for(server: tuple[str, Service]) -> None:
    with raw(server[0], f"{MULTIPART}\r\nContent-Length: 1000", b"--x") as connection:
        assert connection.recv(1000).startswith(b"HTTP/1.1 408 ")


def test_the_work_of_a_client_that_goes_away_is_not_done(
    server: tuple[str, Service], monkeypatch: pytest.MonkeyPatch
) -> None:
    url, service = server
    service.limits = dataclasses.replace(LIMITS, seconds=20)
    blocked = Blocked(service, monkeypatch)
    form = (
        b'--x\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n' + png(view(1)) + b"\r\n--x--\r\n"
    )
    first, second = (raw(url, f"{MULTIPART}\r\nContent-Length: {len(form)}", form) for _ in range(2))
    until(lambda: service.worker.waiting == 2 and blocked.begun.is_set())
    second.close()
    until(lambda: service.worker.waiting == 1)
    blocked.let_go.set()
    with first:
        assert first.recv(1000).startswith(b"HTTP/1.1 200 ")
    assert blocked.asked == 1


def test_an_empty_map_answers(tmp_path: Path) -> None:
    with testclient.TestClient(create_app(Service(empty_map(tmp_path / "city"), LIMITS))) as client:
        answer = ask(client, png(view(1))).json()
        assert answer["candidates"] == [] and not answer["here"]
        assert json.loads(client.get("/openapi.json").text)["paths"]["/v1/locate"]["post"]["requestBody"]


def test_tokens_that_could_be_guessed_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(TOKEN_VARIABLE, raising=False)
    assert read_token(None) is None
    monkeypatch.setenv(TOKEN_VARIABLE, TOKEN)
    assert read_token(None) == TOKEN
    path = tmp_path / "token"
    path.write_text("of-the-file-0123456789\n")
    assert read_token(path) == "of-the-file-0123456789"
    for wrong in (b"", b"short", b"two words and more of them", "ü".encode() * 20, b"\xff" * 20):
        path.write_bytes(wrong)
        with pytest.raises(ConfigError, match="token"):
            read_token(path)


@pytest.mark.parametrize("wrong", [{"seconds": 0}, {"megapixels": float("nan")}, {"waiting": -1}])
def test_limits_that_refuse_everything_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="above 0"):
        Limits(**wrong)  # type: ignore[arg-type]


def test_mistakes_at_the_start_are_sentences(city: Map, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match="no map lies here"):
        serve(tmp_path)
    with pytest.raises(ConfigError, match="limit upload_bytes"):
        serve(city.folder, upload_mb=float("nan"))
    with pytest.raises(DataError, match="--images"):
        serve(city.folder, images=tmp_path / "absent")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"--port {port}"):
            serve(city.folder, port=port)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"fastapi, uvicorn.*pip install 'vpr\[serve\]'"):
        serve(city.folder)


def test_the_command_serves_until_it_is_ended_and_the_example_asks_it(city: Map, tmp_path: Path) -> None:
    photo = tmp_path / "photo.png"
    photo.write_bytes(png(view(3, shift=8)))
    command = [sys.executable, "-m", "vpr", "serve", str(city.folder), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        try:
            assert running.stdout is not None
            said = running.stdout.readline()
            assert said.startswith("6 images at http://127.0.0.1:")
            url = said.split()[3].rstrip(";")
            example = Path(__file__).parents[1] / "examples" / "client.py"
            asked = subprocess.run(
                [sys.executable, str(example), url, str(photo)], capture_output=True, text=True, check=False
            )
            assert "inliers  003.png" in asked.stdout, asked.stderr
        finally:
            running.send_signal(signal.SIGINT)
        _, errors = running.communicate(timeout=20)
    assert running.returncode == 0 and "Traceback" not in errors
