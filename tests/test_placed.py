"""Where images were taken: csv files, names, EXIF, kapture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from conftest import textured
from PIL import Image

from vpr.core import ConfigError, DataError
from vpr.datasets.exif import read_exif
from vpr.datasets.placed import Position, by_names, haversine_m, parse_time
from vpr.datasets.placed_csv import by_csv
from vpr.maps.sources import read_images

NAMES = ["a.jpg", "sub/b.jpg", "c.jpg"]


def csv_of(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "points.csv"
    path.write_text(text)
    return path


def photograph(path: Path, latitude: float | None, longitude: float | None, heading: float | None = None) -> Path:
    """A JPEG with EXIF as a phone writes it."""
    exif = Image.Exif()
    gps = exif.get_ifd(0x8825)
    if latitude is not None and longitude is not None:
        for tag, value, letters in ((1, latitude, "NS"), (3, longitude, "EW")):
            degrees, rest = divmod(abs(value), 1)
            minutes, rest = divmod(60 * rest, 1)
            gps[tag] = letters[value < 0]
            gps[tag + 1] = (degrees, minutes, 60 * rest)
    if heading is not None:
        gps[17] = heading
    exif.get_ifd(0x8769)[0x9003] = "2024:05:01 10:00:00"
    exif.get_ifd(0x8769)[0x9011] = "+02:00"
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(textured(0, 40, 60)).save(path, exif=exif)
    return path


def test_degrees_become_utm_and_back() -> None:
    place = Position.of_degrees(55.6982, 13.1952)
    assert place.zone == "33N" and place.metres == pytest.approx((386_569.9, 6_173_966.9), abs=1)
    assert Position.of_utm(*place.metres, "33N").degrees == pytest.approx((55.6982, 13.1952), abs=1e-7)
    assert Position.of_degrees(89.0, 0.0).metres is None


def test_distances_cross_zones_and_the_date_line() -> None:
    one, two = Position.of_degrees(0.001, 179.999), Position.of_degrees(0.001, -179.999)
    assert one.zone != two.zone and one.distance_m(two) == pytest.approx(222.4, abs=0.5)
    assert np.isnan(Position.of_utm(0, 0, None).distance_m(one))
    assert haversine_m(np.array([[0.0, 0.0]]), (0.0, 90.0))[0] == pytest.approx(10_007_557, rel=1e-4)


@pytest.mark.parametrize(
    "text",
    [
        "2024-05-01T10:00:00Z",
        "2024-05-01T12:00:00+02:00",
        "2024-05-01 10:00:00",
        "20240501_100000",
        "2024:05:01 10:00:00",
    ],
)
def test_forms_of_one_time(text: str) -> None:
    assert parse_time(text) == parse_time("1714557600") == 1714557600


@pytest.mark.parametrize("text", ["soon", "2024-13-01", "12", "", "nan"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(DataError, match="is no time"):
        parse_time(text)


def test_a_csv_gives_places_and_free_columns(tmp_path: Path) -> None:
    path = csv_of(
        tmp_path,
        "Image;Lat;Lon;Heading;Time;Camera;Speed\na.jpg;55,5;13,25;-90;2024-05-01;left;3,5\nc.jpg;;;;;right;\nz.jpg;1;1;;;;\n",
    )
    a, c = by_csv(tmp_path, NAMES, path)
    assert a.name == "a.jpg" and a.position is not None and a.position.degrees == (55.5, 13.25)
    assert a.heading == 270 and a.time == 1714521600 and dict(a.columns) == {"Camera": "left", "Speed": "3,5"}
    assert c.position is None and dict(c.columns) == {"Camera": "right"}


@pytest.mark.parametrize("text", ["55.5, 13.25", "(55.5,13.25)", "55.5 13.25", " 55.5;13.25 "])
def test_a_place_database_has_one_column_for_degrees(tmp_path: Path, text: str) -> None:
    lines = f'file_name,abspath,location,date_taken\na.jpg,/x/a.pickle,"{text}",2024-05-01\n'
    (a,) = by_csv(tmp_path, NAMES, csv_of(tmp_path, lines))
    assert a.position is not None and a.position.degrees == (55.5, 13.25) and a.time == 1714521600
    assert dict(a.columns) == {"abspath": "/x/a.pickle"}


def test_a_location_that_is_no_degrees_is_a_free_column(tmp_path: Path) -> None:
    (a,) = by_csv(tmp_path, NAMES, csv_of(tmp_path, "name,lat,lon,location\na.jpg,55.5,13.25,Lund\n"))
    assert a.position is not None and dict(a.columns) == {"location": "Lund"}


def test_names_in_a_csv_may_be_relative_to_its_folder(tmp_path: Path) -> None:
    path = csv_of(tmp_path, "name,utm_east,utm_north,utm_zone\nimages/sub/b.jpg,500000,6100000,33N\n")
    (b,) = by_csv(tmp_path / "images", NAMES, path)
    assert (
        b.name == "sub/b.jpg"
        and b.position is not None
        and b.position.degrees == pytest.approx((55.04, 15.0), abs=0.01)
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("lat,lon\n1,2\n", "no column name"),
        ("name,lat,lon\nother.jpg,1,2\n", "lists none of the 3 images"),
        ("name,lat,lon\na.jpg,13.2,255.7\n", "line 2.*exchanged"),
        ("name,lat,lon\na.jpg,x,2\n", "line 2.*expected a number"),
        ("name,lat,lon\na.jpg,1,2\n./a.jpg,1,2\n", "line 3.*on line 2 too"),
        ("name,utm_east,utm_north,zone\na.jpg,1,2,99\n", "line 2.*zone '99'"),
        ("name,lat,lon,time\na.jpg,1,2,soon\n", "line 2.*time"),
        ("name,city\na.jpg,Lund\n", "no line has a position"),
        ("name,lat,latitude\na.jpg,1,1\n", "both give the latitude"),
    ],
)
def test_a_csv_that_makes_no_sense_names_the_line(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(DataError, match=said):
        by_csv(tmp_path, NAMES, csv_of(tmp_path, text))


def test_names_give_heading_time_and_panorama(tmp_path: Path) -> None:
    name = "@386581.59@6173962.88@33@U@55.698@13.195@pano7@3@370@0@0@2@20240501@note@.jpg"
    (image,) = by_names(tmp_path, [name])
    assert image.heading == 10 and image.group == "pano7" and image.time == 1714521600
    assert (
        image.position is not None and image.position.zone == "33N" and image.position.metres == (386581.59, 6173962.88)
    )
    (short,) = by_names(tmp_path, ["@500000@4000000@x.jpg"])
    assert short.position == Position(None, None, 500000, 4000000, None) and short.heading is None


def test_exif_of_a_phone(tmp_path: Path) -> None:
    photograph(tmp_path / "s" / "a.jpg", -33.8568, 151.2153, 405)
    photograph(tmp_path / "s" / "b.jpg", None, None)
    root, (a, b) = read_images(tmp_path / "s", "auto")
    assert root == tmp_path / "s" and a.position is not None
    assert a.position.degrees == pytest.approx((-33.8568, 151.2153), abs=1e-6) and a.position.zone == "56S"
    assert a.heading == 45 and a.time == parse_time("2024-05-01T08:00:00Z")
    assert b.position is None and b.time == a.time


def test_damaged_exif_says_nothing(tmp_path: Path) -> None:
    (tmp_path / "x.jpg").write_bytes(b"\xff\xd8\xff\xe1\x00\x10Exif\x00\x00II*\x00\xff\xff\xff\xff")
    assert read_exif(tmp_path / "x.jpg").degrees is None
    photograph(tmp_path / "zero.jpg", 0.0, 0.0)
    assert read_exif(tmp_path / "zero.jpg").degrees is None
    with pytest.raises(DataError, match="none of 2 images has a GPS position"):
        read_images(tmp_path, "exif")


def test_an_unknown_source_of_positions_is_refused(tmp_path: Path) -> None:
    photograph(tmp_path / "a.jpg", None, None)
    with pytest.raises(ConfigError, match="give a csv file, or one of auto"):
        read_images(tmp_path, "gps")
    with pytest.raises(DataError, match="no such file"):
        read_images(tmp_path, str(tmp_path / "missing.csv"))
