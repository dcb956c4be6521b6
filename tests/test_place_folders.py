"""Folders of training images in the layouts of GSV-Cities and SF-XL."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import textured, write_picture

from vpr.core import DataError
from vpr.datasets.place_folders import GROUPS, group_of, read_place_folder
from vpr.training.places import Places

HEADER = "place_id,year,month,northdeg,city_id,lat,lon,panoid\n"


def gsv(root: Path) -> Path:
    """Two cities with two places each; panorama names hold underscores, and digits of degrees differ in the csv."""
    for number, city in enumerate(("Oslo", "NewYork_2")):
        lines = []
        for place in (7, 1000012):
            for view, pano in enumerate(("a_b-C", "_x__y")):
                north = 90 * view + number
                name = f"{city}_{place % 10**5:07d}_2019_0{view + 1}_{north:03d}_59.9100000_10.75_{pano}.jpg"
                write_picture(root / "Images" / city / name, textured(place + view, 48, 64))
                lines.append(f"{place},2019,{view + 1},{north},{city},59.91,10.75,{pano}\n")
        lines.append(f"99,2019,1,0,{city},1.0,2.0,gone\n")  # a file that was not downloaded
        (root / "Dataframes").mkdir(exist_ok=True)
        (root / "Dataframes" / f"{city}.csv").write_text(HEADER + "".join(lines))
    return root


def test_gsv_cities(tmp_path: Path) -> None:
    images = read_place_folder(gsv(tmp_path))
    assert len(images) == 8 and all(image.path.exists() for image in images)
    places = {image.place for image in images}
    assert places == {"Oslo 7", "Oslo 1000012", "NewYork_2 7", "NewYork_2 1000012"}
    assert {image.path.name.split("_")[1] for image in images if image.place == "Oslo 7"} == {"0000007"}
    learnt = Places([tmp_path], (64, 48), held_out=0.25)
    assert len(learnt) == 8 and sorted(len(rows) for rows in learnt.places + learnt.held_places) == [2, 2, 2, 2]
    assert learnt[0].shape == (48, 64)


def test_what_gsv_cities_lacks_is_told(tmp_path: Path) -> None:
    gsv(tmp_path)
    for image in (tmp_path / "Images" / "Oslo").iterdir():
        image.unlink()
    with pytest.raises(DataError, match=r"Oslo.csv: none of its 5 images is in"):
        read_place_folder(tmp_path)
    (tmp_path / "Images" / "Oslo").rmdir()
    with pytest.raises(DataError, match="Oslo: no such folder"):
        read_place_folder(tmp_path)
    (tmp_path / "Dataframes" / "Oslo.csv").write_text(HEADER + "x,2019,1,0,NewYork_2,1,2,p\n")
    with pytest.raises(DataError, match="line 2: 'x' is no whole number"):
        read_place_folder(tmp_path)


def sfxl_name(east: float, north: float, heading: float, pano: str) -> str:
    return f"@{east:.2f}@{north:.2f}@10@S@037.77@-122.42@{pano}@@{heading}@@@@201704@@.jpg"


def test_places_of_sf_xl_are_cells_and_headings_of_one_group(tmp_path: Path) -> None:
    names = [
        sfxl_name(500001, 4000002, 5, "p0"),
        sfxl_name(500009, 4000008, 29, "p1"),  # the same cell and heading
        sfxl_name(500001, 4000002, 31, "p2"),  # the next heading: another group
        sfxl_name(500001, 4000002, 61, "p3"),  # the one after: another place of this group
        sfxl_name(500011, 4000002, 5, "p4"),  # the next cell: another group
        sfxl_name(500051, 4000002, 5, "p5"),  # five cells on: another place of this group
    ]
    for name in names:
        write_picture(tmp_path / "train" / name, textured(1, 48, 64))
    images = read_place_folder(tmp_path / "train", group_of(50000, 400000, 0))
    by_place: dict[str, set[int]] = {}
    for image in images:
        by_place.setdefault(image.place, set()).add(names.index(image.path.name))
    assert sorted(map(sorted, by_place.values())) == [[0, 1], [3], [5]]
    everything = [image for group in range(GROUPS) for image in _or_none(tmp_path / "train", group)]
    assert sorted(image.path.name for image in everything) == sorted(names)


def _or_none(root: Path, group: int) -> list[object]:
    try:
        return list(read_place_folder(root, group))
    except DataError as error:
        assert f"in group {group}" in str(error)
        return []


def test_other_folders_are_refused(tmp_path: Path) -> None:
    write_picture(tmp_path / "some" / "a.jpg", textured(1, 48, 64))
    with pytest.raises(DataError, match="no position and heading in its name"):
        read_place_folder(tmp_path / "some")
    with pytest.raises(DataError, match="no such folder or file"):
        read_place_folder(tmp_path / "none")
    (tmp_path / "empty" / "Dataframes").mkdir(parents=True)
    with pytest.raises(DataError, match="holds no csv file"):
        read_place_folder(tmp_path / "empty")
