"""The demo city: its geometry, its plan, and what it leaves on disk."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from vpr.core import ConfigError, DataError
from vpr.demo_city import (
    LIGHTS,
    Camera,
    City,
    build_city,
    depth_path,
    light_named,
    plan_shots,
    read_depth,
    read_shots,
    render,
    reproject,
    street_camera,
    visible,
    write,
    write_demo_city,
)
from vpr.demo_city.streets import inset
from vpr.demo_city.surfaces import Builder, Paint
from vpr.demo_city.textures import PAINTERS, texture

SIZE = (96, 72)
EAST, NORTH, UP = np.eye(3)


@pytest.fixture(scope="module")
def city() -> City:
    return build_city(2, 0)


@pytest.fixture(scope="module")
def town() -> City:
    return build_city(60, 3)


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> tuple[Path, bytes]:
    """One place with depth, and the table of its cameras."""
    out = tmp_path_factory.mktemp("city") / "one"
    write_demo_city(out, places=1, seed=5, size=(48, 36), workers=1, with_depth=True)
    return out, (out / "cameras.csv").read_bytes()


def bare(city: City, builder: Builder) -> City:
    """A city of these surfaces and nothing else."""
    return replace(city, surfaces=builder.finish(), paints=tuple(builder.paints), lamps=np.zeros((0, 3)))


def wall(builder: Builder, distance: float, left: float = -30.0, cutout: bool = False) -> None:
    """A wall of 60 by 40 metres that faces south, so far north of the origin."""
    paint = Paint("railing" if cutout else "plain", 0, (60.0, 40.0), 10.0, cutout=cutout)
    builder.panel(np.array([left, distance, 20.0]), EAST, -UP, paint)


def pixel_grid(camera: Camera) -> np.ndarray:
    x, y = np.meshgrid(np.arange(camera.size[0]), np.arange(camera.size[1]))
    return np.column_stack([x.ravel(), y.ravel()]).astype(np.float64)


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# Cameras


def test_a_level_camera_sees_what_is_ahead_in_the_middle_and_what_is_east_on_the_right():
    camera = street_camera(np.array([100.0, 200.0, 2.0]), 0, 0, 0, (101, 51))
    pixels, depth = camera.project(np.array([[100.0, 210, 2], [101, 210, 2], [100, 210, 3]]))
    assert np.allclose(depth, 10)
    assert np.allclose(pixels[0], [50, 25])
    focal = 50.5 / np.tan(np.deg2rad(35))
    assert np.allclose(pixels[1], [50 + focal / 10, 25])
    assert np.allclose(pixels[2], [50, 25 - focal / 10])
    assert np.allclose(camera.centre, [100, 200, 2])


@pytest.mark.parametrize(
    "heading, pitch, roll, ahead",
    [(90, 0, 0, EAST), (180, 0, 0, -NORTH), (270, 0, 0, -EAST), (0, 90, 0, UP), (0, 0, 33, NORTH)],
)
def test_heading_turns_clockwise_and_pitch_upwards(heading, pitch, roll, ahead):
    camera = street_camera(np.zeros(3), heading, pitch, roll, SIZE)
    assert np.allclose(camera.rotation[2], ahead)
    assert np.allclose(camera.rotation @ camera.rotation.T, np.eye(3))
    assert np.isclose(np.linalg.det(camera.rotation), 1)


def test_a_camera_rolled_clockwise_sees_the_world_turned_the_other_way():
    pixels, _ = street_camera(np.zeros(3), 0, 0, 10, SIZE).project(np.array([[1.0, 10, 0]]))
    assert pixels[0, 1] < (SIZE[1] - 1) / 2  # what was level on the right has risen


def test_unproject_undoes_project():
    camera = street_camera(np.array([5.0, -3, 1.7]), 123, 4, -2, SIZE)
    pixels, depth = np.random.default_rng(0).uniform(0, 70, (50, 2)), np.linspace(0.5, 150, 50)
    again, depth_again = camera.project(camera.unproject(pixels, depth))
    assert np.allclose(again, pixels) and np.allclose(depth_again, depth)


def test_a_point_behind_the_camera_has_no_pixel():
    pixels, depth = street_camera(np.zeros(3), 0, 0, 0, SIZE).project(np.array([[0.0, -5, 0], [0, 0, 0]]))
    assert np.isnan(pixels).all() and (depth <= 0).all()


def test_no_points_project_to_no_pixels():
    camera = street_camera(np.zeros(3), 0, 0, 0, SIZE)
    pixels, depth = reproject(np.zeros((0, 2)), np.zeros(0), camera, camera)
    assert pixels.shape == (0, 2) and depth.shape == (0,)
    assert visible(pixels, depth, np.ones((4, 4), np.float32)).shape == (0,)


def test_visible_by_hand():
    depth = np.full((4, 6), 10, np.float32)
    depth[:, 4:] = 4.0  # a post before a wall
    depth[0, :] = np.inf  # sky above
    pixels = np.array(
        [[1.0, 2], [1, 2], [1, 2], [4.5, 2], [4.5, 2], [-0.1, 2], [5.1, 2], [1, 0], [np.nan, 2], [1, 0.5]]
    )
    expected = np.array([10.0, 10.1, 12, 4, 10, 10, 4, 10, -1, 12])
    wanted = [True, True, False, True, False, False, False, False, False, False]
    assert visible(pixels, expected, depth).tolist() == wanted


def test_a_camera_of_another_shape_is_refused():
    with pytest.raises(DataError, match="needs a \\(3, 3\\) matrix"):
        Camera(np.eye(4), np.eye(4), SIZE)


def test_an_empty_image_is_refused():
    with pytest.raises(ConfigError, match="at least 1 x 1 pixels, not 0 x 5"):
        street_camera(np.zeros(3), 0, 0, 0, (0, 5))


# Depth and colour


def test_a_camera_before_a_wall_reads_its_distance_in_every_pixel(city):
    builder = Builder()
    wall(builder, 10.0)
    depth = render(bare(city, builder), street_camera(np.zeros(3), 0, 0, 0, SIZE), light_named("day", 0), 0, None).depth
    assert depth.dtype == np.float32 and depth.shape == SIZE[::-1]
    assert np.allclose(depth, 10, rtol=1e-6)


def test_depth_of_a_wall_seen_askew_is_where_each_ray_meets_it(city):
    builder = Builder()
    wall(builder, 10.0)
    camera = street_camera(np.zeros(3), 25, 5, 3, SIZE)
    depth = render(bare(city, builder), camera, light_named("overcast", 0), 0, None).depth
    for x, y in [(0, 0), (95, 0), (0, 71), (50, 40), (13, 66)]:
        ray = camera.rotation.T @ np.linalg.inv(camera.matrix) @ [x, y, 1]
        assert np.isclose(depth[y, x], 10 / ray[1], rtol=1e-5)


def test_the_nearer_wall_hides_the_farther_whatever_the_order(city):
    depths = []
    for order in ((10.0, 6.0), (6.0, 10.0)):
        builder = Builder()
        for distance in order:
            wall(builder, distance, left=-30.0 if distance == 10 else 0.0)
        camera = street_camera(np.zeros(3), 0, 0, 0, SIZE)
        depths.append(render(bare(city, builder), camera, light_named("day", 0), 0, None).depth)
    assert np.array_equal(*depths)
    assert np.allclose(depths[0][:, :47], 10) and np.allclose(depths[0][:, 49:], 6)


def test_a_railing_shows_what_is_behind_it_and_a_wall_from_behind_is_not_there(city):
    builder = Builder()
    wall(builder, 10.0)
    wall(builder, 6.0, cutout=True)
    camera = street_camera(np.zeros(3), 0, 0, 0, SIZE)
    depth = render(bare(city, builder), camera, light_named("day", 0), 0, None).depth
    assert set(np.unique(np.round(depth, 3))) == {6.0, 10.0}
    behind = street_camera(np.array([0.0, 20, 0]), 180, 0, 0, SIZE)
    assert np.isinf(render(bare(city, builder), behind, light_named("night", 0), 0, None).depth).all()


def neighbours(city: City, size: tuple[int, int] = (240, 180)) -> tuple[Camera, Camera]:
    street = city.plan.driven[0]
    first, second = np.append(street.at(20, 1.5), 2.2), np.append(street.at(22, 0.5), 1.9)
    return (
        street_camera(first, street.heading_deg, 3, 0, size),
        street_camera(second, street.heading_deg + 6, 1, 2, size),
    )


def test_what_one_image_shows_is_found_in_another_by_depth_and_pose(city):
    source, target = neighbours(city)
    first, second = (render(city, camera, light_named("overcast", 1), 1, 0) for camera in (source, target))
    solid = np.isfinite(first.depth).ravel()
    pixels, depth = pixel_grid(source)[solid], first.depth.ravel()[solid].astype(np.float64)

    def difference(to: Camera) -> float:
        there, expected = reproject(pixels, depth, source, to)
        seen = visible(there, expected, second.depth)
        assert seen.mean() > 0.3
        x, y = there[seen].T.astype(np.float32)
        found = cv2.remap(second.image, x[:, None], y[:, None], cv2.INTER_LINEAR)[:, 0]
        return float(np.median(np.abs(found.astype(float) - first.image.reshape(-1, 3)[solid][seen]).max(axis=1)))

    moved = target.world_to_camera.copy()
    moved[:3, 3] += [0.15, 0, 0]
    right, wrong = difference(target), difference(replace(target, world_to_camera=moved))
    assert right < 9  # of 255, noise and exposure included
    assert wrong > 1.3 * right


def test_equal_arguments_give_equal_pixels_and_each_seed_matters(city):
    camera, _ = neighbours(city, (120, 90))

    def picture(of: City, light: int = 1, seed: int = 2, traffic: int | None = 3) -> np.ndarray:
        return render(of, camera, light_named("day", light), seed, traffic).image

    usual = picture(city)
    assert usual.dtype == np.uint8 and usual.shape == (90, 120, 3)
    assert np.array_equal(usual, picture(build_city(2, 0)))
    others = [picture(city, light=2), picture(city, seed=3), picture(city, traffic=4), picture(city, traffic=None)]
    others.append(picture(build_city(2, 1)))
    assert all((other != usual).any() for other in others)


def test_lights_differ_as_they_should(city):
    camera, _ = neighbours(city, SIZE)
    means = {name: render(city, camera, light_named(name, 0), 0, 0).image.mean() for name in LIGHTS}
    assert means["night"] < means["dusk"] < means["overcast"]
    assert means["night"] < 0.6 * means["day"]


def test_the_sun_casts_the_shadow_of_a_wall_to_the_side_away_from_it(city):
    builder = Builder()
    ground = Paint("plain", 0, (80.0, 80.0), 2.0)
    builder.panel(np.array([-40.0, 40, 0]), EAST, -NORTH, ground)
    screen = Paint("side", 0, (20.0, 5.0), 2.0, style=next(p.style for p in city.paints if p.style))
    builder.panel(np.array([-10.0, 0, 5]), EAST, -UP, screen)
    sun = np.array([0.0, -1, 1]) / np.sqrt(2)  # from the south: the shadow falls 5 m to the north
    above = street_camera(np.array([0.0, 0, 30]), 0, -89.999, 0, SIZE)
    light = replace(light_named("day", 0), sun=sun, noise=0.0, clouds=0.0, haze_per_m=0.0)
    image = render(bare(city, builder), above, light, 0, None).image.mean(axis=2)
    row = {north: round(above.project(np.array([[0.0, north, 0]]))[0][0, 1]) for north in (-3, 3, 8)}
    middle = slice(40, 56)
    assert image[row[3], middle].mean() < 0.7 * image[row[-3], middle].mean()
    assert image[row[8], middle].mean() > 0.9 * image[row[-3], middle].mean()


def test_a_sun_overhead_shines_on_the_ground(city):
    camera, _ = neighbours(city, SIZE)
    light = replace(light_named("day", 0), sun=UP)
    assert render(city, camera, light, 0, 0).image.std() > 20


def test_an_unknown_light_is_named_with_the_known_ones():
    with pytest.raises(ConfigError, match=r"unknown light 'noon'; known: day, dusk, overcast, night"):
        light_named("noon", 0)


# Textures and layout


def test_every_painter_paints_what_its_paint_promises(town):
    of_kind = {paint.kind: paint for paint in town.paints}
    assert set(of_kind) == set(PAINTERS)
    for paint in of_kind.values():
        image = PAINTERS[paint.kind](paint)
        width, height = (round(side * paint.texels_per_m) for side in paint.size_m)
        assert image.shape == (max(1, height), max(1, width), 4) and image.dtype == np.uint8
        assert np.array_equal(image, PAINTERS[paint.kind](paint))
        if paint.cutout:
            assert 0.02 < (image[..., 3] > 127).mean() < 1


def test_buildings_of_one_style_resemble_each_other_but_none_is_the_same(town):
    fronts = [paint for paint in town.paints if paint.kind == "front"]
    alike = [paint for paint in fronts if paint.style == fronts[0].style]
    assert 10 < len(alike) < len(fronts)
    first, second = (texture(replace(paint, size_m=fronts[0].size_m)).level(0, 0) for paint in alike[:2])
    assert (first != second).mean() > 0.2


def test_a_texture_is_halved_across_and_down_separately():
    painted = texture(Paint("bin", 0, (1.6, 0.8), 40.0))
    assert painted.level(0, 0).shape == (32, 64, 4)
    assert painted.level(2, 1).shape == (16, 16, 4)
    assert painted.level(*painted.most).shape == (1, 1, 4)


def test_inset_moves_every_side_of_a_square_inwards():
    square = np.array([[0.0, 0], [10, 0], [10, 10], [0, 10]])
    assert np.allclose(inset(square, 2), [[2, 2], [8, 2], [8, 8], [2, 8]])


def test_fronts_along_a_street_look_at_it(town):
    surfaces = town.surfaces
    fronts = np.array([paint.kind == "front" for paint in town.paints])[surfaces.paint]
    middle, normal = surfaces.corners[fronts].mean(axis=1)[:, :2], surfaces.normal[fronts][:, :2]
    beside = 0
    for street in town.plan.streets:
        along = (middle - street.start) @ street.along
        to_street = street.start + along[:, None] * street.along - middle
        here = (along > 15) & (along < street.length_m - 15) & (np.linalg.norm(to_street, axis=1) < 10)
        assert ((to_street * normal).sum(axis=1)[here] > 7).all()
        beside += here.sum()
    assert beside > 300


@pytest.mark.parametrize("places, seed", [(0, 0), (-3, 0), (1, -1)])
def test_no_place_and_a_negative_seed_are_refused(places, seed):
    with pytest.raises(ConfigError, match=f"at least 1 place and a seed from 0 on, not {places} and {seed}"):
        build_city(places, seed)


# The plan


def test_the_default_city_has_240_database_images_and_80_queries_one_in_ten_without_positives(town):
    shots = plan_shots(town)
    database = np.array([shot.position for shot in shots if shot.role == "database"])
    queries = [shot for shot in shots if shot.role == "queries"]
    assert (len(database), len(queries)) == (240, 80)
    nearest = [np.linalg.norm(database - shot.position, axis=1).min() for shot in queries]
    lost = [away for shot, away in zip(queries, nearest, strict=True) if shot.place < 0]
    assert len(lost) == 8 and min(lost) > 25
    found = [away for shot, away in zip(queries, nearest, strict=True) if shot.place >= 0]
    assert max(found) < 6 and np.median(found) > 1
    assert {shot.light for shot in queries} == set(LIGHTS)
    assert {shot.light for shot in shots if shot.role == "database"} == {"day"}


@pytest.mark.parametrize("places", [1, 8])
def test_any_number_of_places(places):
    city = build_city(places, 1)
    shots = plan_shots(city, (8, 6))
    roles = [shot.role for shot in shots]
    queries = -(-4 * places // 3)
    assert roles == ["database"] * (4 * places) + ["queries"] * queries
    assert len({(shot.role, shot.name) for shot in shots}) == len(shots)
    assert sum(shot.place < 0 for shot in shots) == queries // 10
    assert city.plan.side_streets


def test_names_hold_position_zone_and_heading(town):
    for shot in plan_shots(town)[::17]:
        empty, east, north, number, letter, *rest = shot.name.split("@")
        assert (empty, number, letter) == ("", "54", "N")
        assert [float(east), float(north)] == shot.position.tolist()
        heading, pitch, _, height = (float(field) for field in rest[4:8])
        forward = shot.camera.rotation[2]
        assert abs((np.rad2deg(np.arctan2(forward[0], forward[1])) - heading + 180) % 360 - 180) < 0.01
        assert abs(np.rad2deg(np.arcsin(forward[2])) - pitch) < 0.01
        assert np.allclose(shot.camera.centre, [*(shot.position - (386_000, 3_949_000)), height], atol=0.006)
        assert rest[9:] == [shot.light, ".jpg"]


def test_no_camera_stands_in_a_parked_car(town):
    east, north, heading = town.parking.T
    for shot in plan_shots(town):
        away = shot.camera.centre[:2] - np.column_stack([east, north])
        along = away[:, 0] * np.sin(heading) + away[:, 1] * np.cos(heading)
        aside = away[:, 0] * np.cos(heading) - away[:, 1] * np.sin(heading)
        assert not ((np.abs(along) < 2.15 + 0.5) & (np.abs(aside) < 0.85 + 0.15)).any()


# On disk


def test_the_folder_holds_what_the_data_set_says(written):
    out, _ = written
    dataset = write_demo_city(out, places=1, seed=5, size=(48, 36), workers=1, with_depth=True)
    assert (len(dataset.database), len(dataset.queries)) == (4, 2)
    assert dataset.protocol == "within 25 m" and dataset.database.zone == dataset.queries.zone == "54N"
    for images in (dataset.database, dataset.queries):
        for row in range(len(images)):
            assert cv2.imread(str(images.path(row))).shape == (36, 48, 3)
    for position, rows in zip(dataset.queries.positions, dataset.positives, strict=True):
        near = [k for k, other in enumerate(dataset.database.positions) if np.hypot(*(other - position)) <= 25]
        assert rows.tolist() == near
    assert "seed 5" in (out / "README.txt").read_text()


def test_cameras_and_depth_are_read_back(written):
    out, _ = written
    city = build_city(1, 5)
    planned, read = plan_shots(city, (48, 36)), read_shots(out)
    assert [shot.name for shot in read] == [shot.name for shot in planned]
    for shot, found in zip(planned, read, strict=True):
        assert np.array_equal(shot.camera.matrix, found.camera.matrix)
        assert np.array_equal(shot.camera.world_to_camera, found.camera.world_to_camera)
        assert np.array_equal(shot.position, found.position)
        for field in ("role", "place", "light", "light_seed", "traffic", "seed"):
            assert getattr(shot, field) == getattr(found, field)
    shot = read[-1]
    depth = read_depth(depth_path(out, shot))
    drawn = render(city, shot.camera, light_named(shot.light, shot.light_seed), shot.seed, shot.traffic).depth
    near = drawn < 150
    assert np.array_equal(np.isinf(depth), np.isinf(drawn))
    assert (np.abs(depth[near] - drawn[near]) <= drawn[near] ** 2 / 65536 * 1.01 + 1e-5).all()


def test_a_complete_city_is_not_rendered_again(written, monkeypatch):
    out, table = written
    monkeypatch.setattr(write, "render", None)
    write_demo_city(out, places=1, seed=5, size=(48, 36), with_depth=True)
    assert (out / "cameras.csv").read_bytes() == table


def test_two_processes_write_the_same_bytes_as_one(written, tmp_path):
    out, _ = written
    write_demo_city(tmp_path / "two", places=1, seed=5, size=(48, 36), workers=2, with_depth=True)
    assert content(tmp_path / "two") == content(out)


def test_a_killed_run_is_taken_up_where_it_stopped(written):
    out, _ = written
    before = content(out)
    (out / "cameras.csv").unlink()
    shot = plan_shots(build_city(1, 5), (48, 36))[2]
    (out / shot.role / shot.name).unlink()
    (out / shot.role / f".{shot.name}.1.tmp").write_bytes(b"half a image")
    with pytest.raises(DataError, match=r"cameras.csv: no such file; write the demo city into .* first"):
        read_shots(out)
    write_demo_city(out, places=1, seed=5, size=(48, 36), workers=1, with_depth=True)
    assert content(out) == before


@pytest.mark.parametrize("change", [{"places": 2}, {"seed": 6}, {"size": (40, 30)}, {"with_depth": False}])
def test_another_city_in_the_folder_is_refused(written, change):
    out, _ = written
    before = content(out)
    wanted = {"places": 1, "seed": 5, "size": (48, 36), "with_depth": True} | change
    with pytest.raises(DataError, match=r"holds a demo city made with .*'seed': 5.*choose another folder"):
        write_demo_city(out, workers=1, **wanted)
    assert content(out) == before


def test_no_worker_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="at least 1 worker, not 0"):
        write_demo_city(tmp_path / "new", places=1, workers=0)
    assert not (tmp_path / "new").exists()


def test_foreign_files_are_refused_and_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(DataError, match="holds something that is no demo city; choose a new or an empty folder"):
        write_demo_city(tmp_path, places=1)
    with pytest.raises(DataError, match="no demo city"):
        write_demo_city(tmp_path / "thesis.txt", places=1)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_broken_table_and_a_broken_depth_image_are_named(tmp_path):
    (tmp_path / "cameras.csv").write_text("role,name\nqueries,a.jpg\n")
    with pytest.raises(DataError, match=r"cameras.csv: not a table of cameras"):
        read_shots(tmp_path)
    (tmp_path / "depth.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"depth.png: not a 16-bit depth image"):
        read_depth(tmp_path / "depth.png")


def test_the_table_of_cameras_has_full_precision(written):
    _, table = written
    rows = list(csv.DictReader(table.decode().splitlines()))
    assert [row["role"] for row in rows] == ["database"] * 4 + ["queries"] * 2
    assert all(len(row["r11"].lstrip("-0.")) > 12 for row in rows)
