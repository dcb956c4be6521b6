"""Classes of pixels: what the demo city draws, the layouts they are written in, their readers and converters."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from vpr.categories import CITYSCAPES_4, CITYSCAPES_34, CS34, CS34_ID, IGNORED, STREET, Categories, Category
from vpr.category_files import read_categories, write_categories
from vpr.cli import app
from vpr.core import ConfigError, DataError
from vpr.datasets.labelled import LABELLED, read_cs34, read_labelled
from vpr.datasets.panoptic import cs34_of_category, read_panoptic, write_cs34
from vpr.demo_city import (
    Camera,
    City,
    Light,
    Rendering,
    build_city,
    light_named,
    plan_shots,
    render,
    write_demo_city,
)
from vpr.demo_city.labelled import panoptic, write_labelled
from vpr.demo_city.labels import label_of
from vpr.demo_city.traffic import moving
from vpr.features.masks import mask_path

SIZE = (96, 72)
LAYOUTS = {"cityscapes": "cityscapes", "coco-panoptic": "coco", "coco-cs34": "coco-cs34", "kitti": "kitti"}


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same two images in every layout."""
    root, rendered = tmp_path_factory.mktemp("labelled"), {}

    def once(city: City, camera: Camera, light: Light, seed: int, traffic: int, **how: float) -> Rendering:
        """Each image is drawn for the first layout alone."""
        key = city.seed, seed, traffic, *how.items()
        if key not in rendered:
            rendered[key] = render(city, camera, light, seed, traffic, **how)
        return rendered[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vpr.demo_city.write.render", once)
        for layout in LAYOUTS:
            write_labelled(root / layout, layout, cities=2, held_out=1, images=1, seed=5, size=SIZE)
    return {layout: root / layout for layout in LAYOUTS}


@pytest.fixture(scope="module")
def city():
    return build_city(4, 3)


def test_every_layout_holds_the_same_labels(sets: dict[str, Path]) -> None:
    found = {layout: read_labelled(LAYOUTS[layout], sets[layout], "train") for layout in LAYOUTS}
    plain = found["cityscapes"].mask(0)
    assert plain.shape == SIZE[::-1]
    assert np.array_equal(found["kitti"].mask(0), plain)
    assert np.array_equal(found["coco-cs34"].mask(0), plain)
    seen = found["coco-panoptic"].mask(0)
    known = seen != CS34_ID["unlabeled"]  # small parts, posts and bins have no COCO category
    assert known.mean() > 0.8
    same = known & (plain != CS34_ID["ground"])  # COCO's dirt is Cityscapes' terrain
    assert np.array_equal(seen[same], plain[same])


def test_splits_are_different_cities(sets: dict[str, Path]) -> None:
    for layout, reader in LAYOUTS.items():
        train, val = (read_labelled(reader, sets[layout], split) for split in ("train", "val"))
        assert len(train) == len(val) == 1
        assert not set(train.labels) & set(val.labels)


def test_a_set_is_taken_up_and_other_arguments_are_refused(sets: dict[str, Path]) -> None:
    root = sets["kitti"]
    gone = root / "training" / "semantic" / "500000_10.png"
    before = gone.read_bytes()
    gone.unlink()
    write_labelled(root, "kitti", cities=2, held_out=1, images=1, seed=5, size=SIZE)
    assert gone.read_bytes() == before
    with pytest.raises(DataError, match="other arguments"):
        write_labelled(root, "kitti", cities=2, held_out=1, images=3, seed=5, size=SIZE)


def test_kitti_without_lists_holds_every_fifth_image_out(sets: dict[str, Path], tmp_path: Path) -> None:
    for folder in ("image_2", "semantic"):
        (tmp_path / "training" / folder).mkdir(parents=True)
        for number in range(10):
            cv2.imwrite(str(tmp_path / "training" / folder / f"{number:06d}_10.png"), np.full((8, 8), 7, np.uint8))
    assert read_labelled("kitti", tmp_path, "val").names == ("000004_10.png", "000009_10.png")
    assert len(read_labelled("kitti", tmp_path, "train")) == 8
    (tmp_path / "val.txt").write_text("000001_10\nstranger\n")
    with pytest.raises(DataError, match="stranger"):
        read_labelled("kitti", tmp_path, "val")


def test_options_leave_images_as_they_are(city) -> None:
    shot = plan_shots(city, SIZE)[0]
    light = light_named(shot.light, shot.light_seed)
    plain = render(city, shot.camera, light, shot.seed, shot.traffic)
    again = render(city, shot.camera, light, shot.seed, shot.traffic, traffic_share=0.0)
    assert np.array_equal(plain.image, again.image)
    assert (plain.labels[~np.isfinite(plain.depth)] == CS34_ID["sky"]).all()
    assert (plain.labels[np.isfinite(plain.depth)] != CS34_ID["sky"]).all()
    assert CS34_ID["person"] not in plain.labels


def test_traffic_covers_about_a_third(city) -> None:
    shares = []
    for shot in plan_shots(city, SIZE)[::4]:
        light = light_named(shot.light, shot.light_seed)
        labels = STREET.of(render(city, shot.camera, light, shot.seed, None, traffic_share=0.33).labels)
        shares.append(np.isin(labels, STREET.ids_of(["vehicle", "person"])).mean())
    assert 0.25 < np.mean(shares) < 0.42
    with pytest.raises(ConfigError, match="from 0 to"):
        moving(0, 0, city.movers, shot.camera, 0.9)


def test_every_paint_has_a_class(city) -> None:
    assert all(0 <= label_of(paint) < len(CS34) for paint in city.paints)


def test_panoptic_counts_things_one_by_one() -> None:
    labels = np.full((12, 20), CS34_ID["road"], np.uint8)
    labels[:6, :6] = labels[:6, 14:] = CS34_ID["car"]
    ids = panoptic(labels).astype(np.int64) @ [1, 256, 65536]
    assert len(np.unique(ids)) == 3
    assert ids[0, 0] != ids[0, 19] and (ids[8] == ids[8, 0]).all()


def test_classes_belong_to_one_group_each() -> None:
    assert len(CITYSCAPES_34) == 34 and len(CITYSCAPES_4) == 4
    assert sorted(number for each in CITYSCAPES_4.classes for number in each.cs34) == list(range(34))
    mask = np.array([[7, 26, 0, IGNORED]], np.uint8)
    assert STREET.of(mask).tolist() == [[0, 3, IGNORED, IGNORED]]
    assert CITYSCAPES_4.of(mask).tolist() == [[1, 2, 3, IGNORED]]
    assert STREET.coloured(STREET.of(mask))[0, 2].tolist() == [0, 0, 0]
    with pytest.raises(ConfigError, match="one class at most"):
        Categories("two", (Category("a", (0, 0, 0), (1,)), Category("b", (0, 0, 0), (1, 2))))
    with pytest.raises(ConfigError, match="unknown class 'tree' of street; known: road"):
        STREET.ids_of(["tree"])


def test_converters_of_the_command_line(sets: dict[str, Path], tmp_path: Path) -> None:
    root = sets["coco-panoptic"] / "annotations"
    command = ["dataset", "panoptic-to-cs34", "--src", str(root / "panoptic_train2017"),
               "--ann", str(root / "panoptic_train2017.json"), "--dst", str(tmp_path / "cs34")]  # fmt: skip
    assert "1 masks written, 0 were there" in CliRunner().invoke(app, command).output
    assert "0 masks written, 1 were there" in CliRunner().invoke(app, command).output
    found = read_labelled("coco", sets["coco-panoptic"], "train")
    assert np.array_equal(read_cs34(tmp_path / "cs34" / found.labels[0].name), found.mask(0))
    for count, classes in ((34, CITYSCAPES_34), (4, CITYSCAPES_4)):
        out = tmp_path / f"{count}.json"
        CliRunner().invoke(app, ["datasets", "cs34-categories", "--dst", str(out), "--classes", str(count)])
        assert read_categories(out).classes == classes.classes


def test_categories_by_name() -> None:
    assert cs34_of_category("car") == 26 and cs34_of_category("zebra") == CS34_ID["dynamic"]
    assert cs34_of_category("toothbrush") == CS34_ID["unlabeled"]


@pytest.mark.parametrize(
    "content",
    ["not json", "[]", "{}", '{"images": 3}', '{"images": [], "annotations": [{}], "categories": []}', "[" * 100_000,
     '{"categories": [], "images": [{"id": 1, "file_name": "../a.jpg"}], '
     '"annotations": [{"image_id": 1, "file_name": "a.png", "segments_info": []}]}'],
)  # fmt: skip
def test_a_hostile_json_is_a_data_error(content: str, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(DataError, match=r"a\.json"):
        read_panoptic(tmp_path / "a.json")
    with pytest.raises(DataError, match=r"a\.json"):
        read_categories(tmp_path / "a.json")


def test_masks_that_are_none(sets: dict[str, Path], tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), np.full((4, 4), 77, np.uint8))
    with pytest.raises(DataError, match="holds the value 77"):
        read_cs34(tmp_path / "a.png")
    root = sets["coco-panoptic"] / "annotations"
    found = read_panoptic(root / "panoptic_train2017.json")
    for name in found.segments:
        cv2.imwrite(str(tmp_path / name), np.full((4, 4, 3), 9, np.uint8))
    with pytest.raises(DataError, match="does not know"):
        write_cs34(found, tmp_path, tmp_path / "out")


@pytest.mark.parametrize("layout", LABELLED)
def test_an_empty_folder_is_said(layout: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such f"):
        read_labelled(layout, tmp_path, "train")


def test_a_missing_mask_is_said(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    cv2.imwrite(str(tmp_path / "images" / "a.jpg"), np.zeros((8, 8), np.uint8))
    with pytest.raises(DataError, match="1 of 1 images have no labels"):
        read_labelled("folders", tmp_path, "train")
    with pytest.raises(ConfigError, match="unknown layout 'ade'"):
        read_labelled("ade", tmp_path, "train")


def test_own_classes_in_a_file(tmp_path: Path) -> None:
    own = Categories("own", (Category("stays", (1, 2, 3), (11, 12)), Category("moves", (4, 5, 6), (26,))))
    write_categories(tmp_path / "own.json", own)
    assert read_categories(tmp_path / "own.json") == own
    records = json.loads((tmp_path / "own.json").read_text())
    records[1]["id"] = 7
    (tmp_path / "bad.json").write_text(json.dumps(records))
    with pytest.raises(DataError, match="must be 0, 1, 2"):
        read_categories(tmp_path / "bad.json")


def test_a_city_with_labels_and_traffic(tmp_path: Path) -> None:
    options = {"places": 1, "seed": 3, "size": SIZE, "workers": 1, "with_labels": True}
    dataset = write_demo_city(tmp_path, **options, traffic_share=0.3)
    for images in (dataset.database, dataset.queries):
        masks = [mask_path(tmp_path / "labels", images, row) for row in range(len(images))]
        assert all(path is not None and read_cs34(path).shape == SIZE[::-1] for path in masks)
    with pytest.raises(DataError, match="traffic_share"):
        write_demo_city(tmp_path, **options)
    with pytest.raises(ConfigError, match="from 0 to 60%"):
        write_demo_city(tmp_path / "other", **options, traffic_share=0.7)
