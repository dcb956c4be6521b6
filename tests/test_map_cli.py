"""``vpr map`` as a user types it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import write_picture
from maps import SMALL, view, write_images, write_positions
from typer.testing import CliRunner

from vpr.cli import app
from vpr.core import ConfigError, VprError
from vpr.toml_text import to_toml


def vpr(*words: object) -> str:
    """What a command prints; raises what it raises."""
    done = CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=True)
    if done.exception is not None and not (isinstance(done.exception, SystemExit) and done.exception.code == 0):
        raise done.exception
    return done.stdout


@pytest.fixture
def city(tmp_path: Path) -> Path:
    write_images(tmp_path / "images", range(5))
    write_positions(tmp_path / "points.csv", range(5))
    (tmp_path / "small.toml").write_text(to_toml(SMALL))
    words = (
        "--images",
        tmp_path / "images",
        "--positions",
        tmp_path / "points.csv",
        "--config",
        tmp_path / "small.toml",
    )
    said = vpr("map", "create", tmp_path / "city", *words)
    assert "added 5 images" in said and "5 images, 5 with a position" in said
    return tmp_path / "city"


def test_the_life_of_a_map(city: Path, tmp_path: Path) -> None:
    photo = write_picture(tmp_path / "photo.png", view(3, 6))
    assert "003.png" in vpr("map", "locate", city, photo).splitlines()[0]
    answer = json.loads(vpr("map", "locate", city, photo, "--near", "55.7027,13.2", "--radius", 150, "--json"))
    assert answer["here"] and {each["name"] for each in answer["candidates"]} == {"002.png", "003.png", "004.png"}
    write_images(tmp_path / "more", range(5, 7))
    assert "added 2 images" in vpr("map", "add", city, "--images", tmp_path / "more", "--positions", "none")
    assert "removed 2 images; 5 are left" in vpr("map", "remove", city, "000.png", "--where", "heading = 10")
    listed = vpr("map", "list", city, "--where", "speed > 3").splitlines()
    assert [line.split("\t")[0] for line in listed] == ["003.png", "004.png"] and "2024-05-01T03:00:00Z" in listed[0]
    assert "2 segments before, 1 now; dropped the data of 2" in vpr("map", "compact", city)
    assert "every file is as it was written" in vpr("map", "verify", city)
    assert "5 images" in vpr("map", "export", city, "--out", tmp_path / "out.csv")
    assert "5 images, 3 with a position" in vpr("map", "info", city)


def test_frames_of_a_drive_are_located_together(city: Path, tmp_path: Path) -> None:
    frames = tmp_path / "frames"
    for place in range(4):
        write_picture(frames / f"{place}.png", view(place, 6))
    said = vpr("map", "locate", city, frames, "--sequence", "--step", 100, "--k", 1)
    firsts = [line.rsplit(" ", 1)[-1] for line in said.splitlines() if line.startswith("   1")]
    assert firsts == ["000.png", "001.png", "002.png", "003.png"]


def test_mistakes_of_a_newcomer_are_sentences(city: Path, tmp_path: Path) -> None:
    photo = write_picture(tmp_path / "photo.png", view(3))
    for words, said in (
        (("locate", tmp_path / "nowhere", photo), "no map lies here"),
        (("locate", city, photo, "--near", "here"), "as 55.6982,13.1952"),
        (("locate", city, photo, "--radius", 5), "give near"),
        (("locate", city, tmp_path / "missing.jpg"), "no such"),
        (("locate", city, photo, "--sequence", "--rerank", 3), "not for --sequence"),
        (("locate", city, photo, "--sequence", "--step", 0), "more than 0"),
        (("create", tmp_path / "new"), "give --images"),
        (("create", tmp_path / "new", "--images", tmp_path / "images", "--source", "a=b"), "--source is for --reader"),
        (("add", city, "--images", tmp_path / "images", "--positions", "gps"), "give a csv file"),
        (("remove", city), "name the images to remove"),
        (("export", city, "--out", tmp_path / "x", "--format", "xml"), "known: csv, places, geojson, kapture"),
    ):
        with pytest.raises(VprError, match=said):
            vpr("map", *words)
    with pytest.raises(ConfigError, match="on_bad_image"):
        vpr("map", "create", tmp_path / "new", "--images", tmp_path / "images", "--on-bad-image", "perhaps")


def test_a_reader_gives_the_images(tmp_path: Path, small_city: tuple[Path, Path]) -> None:
    (tmp_path / "small.toml").write_text(to_toml(SMALL))
    database, queries = small_city
    words = ("--source", f"database={database}", "--source", f"queries={queries}", "--config", tmp_path / "small.toml")
    said = vpr("map", "create", tmp_path / "city", "--reader", "folders", *words)
    assert "8 images, 8 with a position" in said
    answer = vpr("map", "locate", tmp_path / "city", next(queries.glob("*q2*")))
    assert "own frame 500200.0 east" in answer.splitlines()[0]
