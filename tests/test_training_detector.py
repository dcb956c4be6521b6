"""Shapes, warps, light, labels and losses: what a detector and a descriptor learn from."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from test_hostile import call
from torch import Tensor, nn
from torch.nn import functional

from vpr.core import DataError, Origin
from vpr.local_features.detection import score_map
from vpr.local_features.superpoint_network import CELL, SuperPointNetwork
from vpr.training import adaptation, homographies, loop, magicpoint, photometric, superpoint
from vpr.training.batch_norm import folded, measure, with_batch_norm
from vpr.training.corners import Corners, least_eigenvalue
from vpr.training.description import DESCRIPTOR_LOSSES, ViewPair, dense, softmax, sparse
from vpr.training.detection import NO_POINT, cell_classes, detector_loss, point_map, whole_cells
from vpr.training.grey_images import GreyImages, cut_to
from vpr.training.homographies import (
    homography_of,
    inside,
    invert,
    sample_homographies,
    seen,
    warp_images,
    warp_points,
)
from vpr.training.randomness import randomness
from vpr.training.repeatability import judge_views
from vpr.training.shapes import PRIMITIVES, SCALE, draw_shape
from vpr.weights import load_published

CPU = torch.device("cpu")
SIZE = (96, 64)
TINY = {"widths": (8, 8, 16, 16), "head": 16, "dim": 16, "size": SIZE}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# --- shapes


@pytest.mark.parametrize("primitive", PRIMITIVES, ids=lambda each: each.__name__)
def test_a_corner_is_where_grey_changes_in_two_directions(primitive) -> None:
    """Near a corner the smaller eigenvalue of the structure tensor is large."""
    random = np.random.default_rng(3)
    strong = total = 0
    for _ in range(30):
        image = np.full((480, 640), int(random.integers(256)), np.uint8)
        corners = np.asarray(primitive(image, random))
        response = cv2.cornerMinEigenVal(cv2.resize(image, (160, 120), interpolation=cv2.INTER_AREA), 5)
        response = cv2.dilate(response, np.ones((7, 7)))
        for x, y in ((corners + 0.5) / SCALE - 0.5).round().astype(int):
            if 4 <= x < 156 and 4 <= y < 116:
                strong += response[y, x] > 1e-3
                total += 1
    if primitive.__name__ in ("_ellipses", "_noise"):
        assert total == 0
    else:
        assert total > 60 and strong / total > 0.75


def test_a_drawn_shape_depends_on_its_seed_only() -> None:
    for seed in range(20):
        (image, points), (again, same) = (draw_shape((160, 120), np.random.default_rng(seed)) for _ in range(2))
        assert image.shape == (120, 160) and np.array_equal(image, again) and np.array_equal(points, same)
        assert ((points >= 0) & (points <= [159, 119])).all()


# --- warps


def test_homographies_send_corners_where_they_should_and_back() -> None:
    warps = sample_homographies(50, SIZE, homographies.Settings(), generator())
    points = torch.rand(50, 20, 2, generator=generator(1)) * torch.tensor([95.0, 63.0])
    assert torch.allclose(warp_points(warp_points(points, invert(warps)), warps), points, atol=0.05)
    corners = torch.tensor([[[0.0, 0], [95, 0], [95, 63], [0, 63]]])
    shifted = corners + torch.tensor([3.0, -2.0])
    assert torch.allclose(warp_points(corners, homography_of(corners, shifted)), shifted, atol=1e-4)


def test_no_change_allowed_is_the_identity() -> None:
    still = homographies.Settings(patch=1, perspective=0, scaling=0, rotation_deg=0, translation=0)
    assert torch.allclose(sample_homographies(3, SIZE, still, generator()), torch.eye(3), atol=1e-4)


def test_a_warped_image_shows_a_point_where_it_went() -> None:
    image = torch.zeros(1, 1, 64, 96)
    image[0, 0, 29:32, 49:52] = 1.0  # around (50, 30)
    for seed in range(20):
        warp = sample_homographies(1, SIZE, homographies.Settings(rotation_deg=40), generator(seed))
        place = warp_points(torch.tensor([[[50.0, 30.0]]]), warp)[0, 0]
        if not inside(place, SIZE, margin=4):
            continue
        warped = warp_images(image, warp, SIZE)[0, 0]
        mass = warped.sum()
        y, x = torch.meshgrid(torch.arange(64.0), torch.arange(96.0), indexing="ij")
        centre = torch.stack([(warped * x).sum(), (warped * y).sum()]) / mass
        assert mass > 1 and (centre - place).abs().max() < 0.5


def test_what_is_seen_is_what_comes_from_inside() -> None:
    shift = torch.eye(3)[None].clone()
    shift[0, 0, 2] = 10.0
    valid = seen(shift, SIZE, SIZE)
    assert not valid[0, :, :10].any() and valid[0, :, 10:].all()
    assert seen(shift, SIZE, SIZE, margin=2)[0, 2:-2, 12:].all() and not seen(shift, SIZE, SIZE, margin=2)[0, :2].any()


# --- light


def test_light_keeps_range_and_shape_and_follows_its_seed() -> None:
    images = torch.rand(16, 1, 40, 56, generator=generator())
    always = photometric.Settings(chance=1, night=0.5)
    one, same, other = (photometric.augment(images, always, generator(seed)) for seed in (1, 1, 2))
    assert one.shape == images.shape and one.min() >= 0 and one.max() <= 1
    assert torch.equal(one, same) and not torch.equal(one, other)
    assert ((one - images).abs().amax((1, 2, 3)) > 0.02).all()
    assert torch.equal(photometric.augment(images, photometric.Settings(chance=0, night=0), generator()), images)


def test_blur_keeps_the_mean_and_takes_the_detail() -> None:
    images = torch.rand(8, 1, 64, 64, generator=generator())
    blurred = photometric._blur(images, photometric.Settings(blur=1.5), generator(1))
    assert torch.allclose(blurred.mean((1, 2, 3)), images.mean((1, 2, 3)), atol=0.02)
    assert (blurred.std((1, 2, 3)) < images.std((1, 2, 3)) + 1e-6).all() and blurred.std() < 0.7 * images.std()
    moved = photometric._motion(images, photometric.Settings(), generator(1))
    assert torch.allclose(moved.mean((1, 2, 3)), images.mean((1, 2, 3)), atol=0.03)


# --- the detector's classes and loss


def test_classes_of_cells_by_hand() -> None:
    points = torch.tensor([[[0.0, 0.0], [9.4, 2.6], [15.0, 15.0], [50.0, 3.0]]])
    classes = cell_classes(point_map(points, torch.tensor([4]), (16, 16)), generator())
    assert classes.tolist() == [[[0, 3 * 8 + 1], [NO_POINT, 63]]]
    fewer = cell_classes(point_map(points, torch.tensor([1]), (16, 16)), generator())
    assert fewer.tolist() == [[[0, NO_POINT], [NO_POINT, NO_POINT]]]


def test_of_several_points_in_a_cell_each_has_its_turn() -> None:
    map_ = point_map(torch.tensor([[[1.0, 1.0], [6.0, 5.0]]]), torch.tensor([2]), (8, 8))
    assert {int(cell_classes(map_, generator(seed))) for seed in range(20)} == {9, 46}


def test_cells_that_are_not_whole_do_not_count() -> None:
    valid = torch.ones(1, 16, 16, dtype=torch.bool)
    valid[0, 3, 3] = False
    whole = whole_cells(valid)
    assert whole.tolist() == [[[False, True], [True, True]]]
    logits = torch.zeros(1, 65, 2, 2)
    logits[0, 7, 0, 0] = 100.0  # wrong, but not counted
    classes = torch.full((1, 2, 2), NO_POINT)
    assert float(detector_loss(logits, classes, whole)) == pytest.approx(np.log(65))
    assert float(detector_loss(logits, classes, torch.zeros_like(whole))) == 0


# --- descriptors


def views(same: bool, size: tuple[int, int] = (64, 48), dim: int = 32) -> ViewPair:
    first = torch.randn(2, dim, size[1] // CELL, size[0] // CELL, generator=generator())
    second = first if same else torch.randn(first.shape, generator=generator(1))
    points = CELL / 2 + torch.rand(2, 12, 2, generator=generator(2)) * (torch.tensor(size) - CELL)
    return ViewPair(first, second, torch.eye(3).expand(2, 3, 3), size, points)


@pytest.mark.parametrize("name", sorted(DESCRIPTOR_LOSSES))
def test_equal_views_lose_less_than_unlike_ones(name: str) -> None:
    loss = DESCRIPTOR_LOSSES[name]
    right, wrong = loss(views(True), generator()), loss(views(False), generator())
    assert 0 <= float(right) < 0.5 * float(wrong)


@pytest.mark.parametrize("name", sorted(DESCRIPTOR_LOSSES))
def test_points_that_nobody_sees_cost_nothing(name: str) -> None:
    away = torch.eye(3).expand(2, 3, 3).clone()
    away[:, 0, 2] = 1000.0
    far = views(False)
    assert float(DESCRIPTOR_LOSSES[name](ViewPair(far.first, far.second, away, far.size, far.points), generator())) == 0


def test_the_dense_loss_against_a_plain_loop() -> None:
    of = views(False, (32, 24))
    one, other = (functional.normalize(each, dim=1).flatten(2) for each in (of.first, of.second))
    centres = [(8 * x + 3.5, 8 * y + 3.5) for y in range(3) for x in range(4)]
    total = 0.0
    for image in range(2):
        for i, (x, y) in enumerate(centres):
            for j, (u, v) in enumerate(centres):
                cosine = float(one[image, :, i] @ other[image, :, j])
                near = np.hypot(x - u, y - v) <= 7.5
                total += 250 * max(0, 1 - cosine) if near else max(0, cosine - 0.2)
    assert float(dense(of, generator())) == pytest.approx(total / (2 * 12 * 12), rel=1e-5)


def test_the_softmax_loss_by_hand() -> None:
    """Two points whose descriptors are orthogonal: each finds its partner against one rival at cosine 0."""
    rows = torch.zeros(1, 4, 3, 8)
    rows[0, 0, :, :4], rows[0, 1, :, 4:] = 1.0, 1.0
    points = torch.tensor([[[11.5, 11.5], [51.5, 11.5]]])
    of = ViewPair(rows, rows, torch.eye(3)[None], (64, 24), points)
    assert float(softmax(of, generator(), temperature=1.0)) == pytest.approx(np.log(1 + np.exp(-1)), rel=1e-4)
    assert float(sparse(of, generator())) == pytest.approx(0, abs=1e-5)


# --- homographic adaptation


class Bright(nn.Module):
    """A perfect detector of bright dots: a pixel's probability grows with its brightness."""

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        cells = functional.pixel_unshuffle(images * 12, CELL)
        return torch.cat([cells, torch.full_like(cells[:, :1], 4.0)], dim=1), cells


def with_dots(folder: Path, count: int, seed: int = 0) -> list[np.ndarray]:
    random = np.random.default_rng(seed)
    folder.mkdir()
    all_dots = []
    for number in range(count):
        image = np.zeros((64, 96), np.uint8)
        dots = np.array([(20, 12), (70, 20), (48, 50)]) + random.integers(-4, 5, (3, 2))
        for x, y in dots:
            image[y - 1 : y + 2, x - 1 : x + 2] = 140
            image[y, x] = 255
        cv2.imwrite(str(folder / f"{number:03}.png"), image)
        all_dots.append(dots)
    return all_dots


def test_adaptation_finds_the_dots_through_all_warps(tmp_path: Path) -> None:
    all_dots = with_dots(tmp_path / "photos", 3)
    photographs = GreyImages(tmp_path / "photos", SIZE)
    settings = adaptation.Settings(warps=30, batch_size=7, most=3, homography=homographies.Settings(rotation_deg=30))
    origin = Origin(adaptation.KIND, "f")
    adaptation.label(photographs, Bright(), tmp_path / "labels", origin, settings=settings, device=CPU)
    for found, dots in zip(adaptation.read_labels(tmp_path / "labels", photographs.names), all_dots, strict=True):
        apart = np.linalg.norm(found[:, None] - dots[None], axis=-1)
        assert apart.shape == (3, 3) and apart.min(axis=0).max() <= 1
    with pytest.raises(DataError, match="labels of 3 photographs, but there are 4"):
        adaptation.read_labels(tmp_path / "labels", [*photographs.names, "new.jpg"])


def test_photographs_that_cannot_be_read_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with_dots(tmp_path / "photos", 2)
    size = ("--width", "64", "--height", "48", "--set", "warps=2")
    (tmp_path / "photos/broken.png").write_bytes(b"no image")
    call(["label", "--images", str(tmp_path / "photos"), "--out", str(tmp_path / "labels"), *size])
    assert "2 photographs (1 more cannot be read), " in capsys.readouterr().out
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken/a.png").write_bytes(b"no image")
    with pytest.raises(SystemExit, match="1"):
        call(["label", "--images", str(tmp_path / "broken"), "--out", str(tmp_path / "none"), *size])
    assert "not one of 1 photographs can be read" in capsys.readouterr().err


def test_labels_move_to_the_corner_between_pixels(tmp_path: Path) -> None:
    dot = np.array([40.4, 30.7])
    y, x = np.mgrid[:64, :96]
    spot = np.exp(-((x - dot[0]) ** 2 + (y - dot[1]) ** 2) / (2 * 0.9**2))
    (tmp_path / "photos").mkdir()
    cv2.imwrite(str(tmp_path / "photos" / "0.png"), (255 * spot).astype(np.uint8))
    photographs = GreyImages(tmp_path / "photos", SIZE)
    errors = []
    for corners in (False, True):
        folder = tmp_path / f"labels-{corners}"
        settings = adaptation.Settings(warps=1, most=1, to_corners=corners)
        origin = Origin(adaptation.KIND, "f")
        adaptation.label(photographs, Bright(), folder, origin, settings=settings, device=CPU)
        errors.append(np.linalg.norm(adaptation.read_labels(folder, photographs.names)[0][0] - dot))
    assert errors[1] < 0.2 < 0.4 < errors[0]


def test_interrupted_labels_end_with_the_same_bytes(tmp_path: Path) -> None:
    with_dots(tmp_path / "photos", 70)
    photographs = GreyImages(tmp_path / "photos", SIZE)
    settings = adaptation.Settings(warps=2)
    origin = Origin(adaptation.KIND, "f")
    folders = [tmp_path / "whole", tmp_path / "parts"]
    for folder in folders:
        adaptation.label(photographs, Bright(), folder, origin, settings=settings, device=CPU)
    whole = {path.name: path.read_bytes() for path in folders[0].rglob("*.safetensors")}
    assert len(whole) == 2
    next(folders[1].rglob("*.safetensors")).unlink()
    adaptation.label(photographs, Bright(), folders[1], origin, settings=settings, device=CPU)
    assert {path.name: path.read_bytes() for path in folders[1].rglob("*.safetensors")} == whole


# --- photographs


def test_photographs_are_cut_to_their_middle_and_shared_out(tmp_path: Path) -> None:
    image = np.tile(np.arange(200, dtype=np.uint8), (100, 1))
    cut = cut_to(image, (100, 100))
    assert cut.shape == (100, 100) and abs(int(cut[0, 0]) - 50) <= 1
    with_dots(tmp_path / "photos", 10)
    photographs = GreyImages(tmp_path / "photos", SIZE, held_out=3)
    assert sorted([*photographs.held, *photographs.seen]) == list(range(10)) and len(photographs.held) == 3
    with pytest.raises(DataError, match="10 images are too few to keep 6"):
        GreyImages(tmp_path / "photos", SIZE, held_out=6)


# --- the tasks


def fast(**changed: object) -> loop.Settings:
    values = {"learning_rate": 4e-3, "batch_size": 2, "warmup_steps": 5, "validate_every": 10_000, "log_every": 10}
    return loop.Settings(**{**values, "ema": 0.9, **changed})


def last_loss(folder: Path) -> float:
    header, *lines = (folder / "train.csv").read_text().splitlines()
    return float(lines[-1].split(",")[header.split(",").index("loss")])


@pytest.mark.parametrize(("layout", "share"), [("v1", 0.02), ("open", 0.6)])
def test_magicpoint_learns_one_batch_by_heart(layout: str, share: float, tmp_path: Path) -> None:
    """The open layout ends in a BatchNorm, whose scale takes long to grow until it can be sure."""
    calm = photometric.Settings(chance=0, night=0)
    settings = magicpoint.Settings(**TINY, layout=layout, light=calm, validation_images=4)
    torch.manual_seed(0)
    task = magicpoint.build(settings)
    best = loop.train(task, fast(steps=250, overfit=1), tmp_path, CPU)
    assert last_loss(tmp_path) < share * np.log(65)
    network = SuperPointNetwork()
    load_published(network, str(best), network.convert_state_dict)
    assert network.dim == 16 and network.layout == layout


@pytest.mark.parametrize("batch_norm", [False, True])
def test_superpoint_can_learn_one_batch_by_heart(batch_norm: bool, tmp_path: Path) -> None:
    dots = with_dots(tmp_path / "photos", 6)
    photographs = GreyImages(tmp_path / "photos", SIZE)
    origin = Origin(adaptation.KIND, "f")
    settings = adaptation.Settings(warps=4, most=len(dots[0]))
    adaptation.label(photographs, Bright(), tmp_path / "labels", origin, settings=settings, device=CPU)
    calm = photometric.Settings(chance=0, night=0)
    task_settings = superpoint.Settings(
        **TINY,
        photographs=tmp_path / "photos",
        labels=tmp_path / "labels",
        light=calm,
        points=16,
        held_out=2,
        descriptor_loss="dense",
        homography=homographies.Settings(rotation_deg=10),
        batch_norm=batch_norm,
    )
    torch.manual_seed(0)
    task = superpoint.build(task_settings)
    first = float(task.losses(task.model, task.batch(2, randomness(0)), randomness(0))["loss"].detach())
    best = loop.train(task, fast(steps=150, overfit=1), tmp_path / "out", CPU)
    assert last_loss(tmp_path / "out") < 0.25 * first
    published = SuperPointNetwork("v1", TINY["widths"], TINY["head"], TINY["dim"])
    published.load_state_dict({key: value.float() for key, value in load_file(best).items()})  # whatever trained it


def test_batch_norm_folds_into_the_convolutions_and_begins_without_a_change() -> None:
    torch.manual_seed(0)
    network = SuperPointNetwork("v1", TINY["widths"], TINY["head"], TINY["dim"])
    images = torch.rand(3, 1, 48, 64)
    before = network(images)
    with_batch_norm(network)
    measure(network, images)
    for one, other in zip(network(images), before, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)
    for layer in (network.conv1a, network.convDa):
        torch.nn.init.uniform_(layer.norm.weight, 0.5, 2)
        torch.nn.init.uniform_(layer.norm.bias, -1, 1)
    network.eval()
    plain = folded(network)
    assert set(plain.state_dict()) == set(SuperPointNetwork().state_dict())
    for one, other in zip(plain(images), network(images), strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


def test_a_camera_that_stood_still_shows_one_view_in_two_lights(tmp_path: Path) -> None:
    with_dots(tmp_path / "photos", 9)
    for number, name in enumerate(sorted((tmp_path / "photos").iterdir())):
        name.rename(name.with_name(f"{'camera' if number < 4 else 'other'}_{number}{name.suffix}"))
    photographs = GreyImages(tmp_path / "photos", SIZE)
    adaptation.label(
        photographs,
        Bright(),
        tmp_path / "labels",
        Origin(adaptation.KIND, "f"),
        settings=adaptation.Settings(warps=1),
        device=CPU,
    )
    settings = superpoint.Settings(
        **TINY,
        photographs=tmp_path / "photos",
        labels=tmp_path / "labels",
        held_out=1,
        fixed_cameras=["camera_*"],
        fixed_share=0.5,
    )
    task = superpoint.build(settings)
    cameras = {task.photographs[row].tobytes() for row in task.photographs.seen[:3]}
    batch = task.batch(64, randomness(0))
    pairs = [
        (one.numpy().tobytes(), other.numpy().tobytes()) for one, other in zip(batch.images, batch.others, strict=True)
    ]
    changed = [pair for pair in pairs if pair[0] != pair[1]]
    assert 16 <= len(changed) <= 48
    assert all(one in cameras and other in cameras for one, other in changed)
    with pytest.raises(DataError, match="'tower_\\*'"):
        superpoint.build(settings.model_copy(update={"fixed_cameras": ("tower_*",)}))


def test_views_are_judged_right_by_a_perfect_detector() -> None:
    image = torch.zeros(1, 1, 64, 96)
    for x, y in ((20, 12), (70, 20), (48, 50), (30, 40)):
        image[0, 0, y, x] = 1.0
    judged = judge_views(Bright(), image, image, torch.eye(3)[None])
    assert judged["repeatability"] == 1.0


def test_plain_corners_are_found_where_two_edges_meet() -> None:
    image = torch.full((1, 1, 64, 96), 0.2)
    image[0, 0, 20:41, 30:61] = 0.8
    response = least_eigenvalue(image)[0, 0]
    strongest = response.flatten().topk(4).indices
    places = sorted((int(place) % 96, int(place) // 96) for place in strongest)
    for (x, y), (u, v) in zip(places, [(30, 20), (30, 40), (60, 20), (60, 40)], strict=True):
        assert abs(x - u) <= 1 and abs(y - v) <= 1
    assert response[30, 30] < 1e-6 and response[5, 5] == 0  # an edge, and nothing
    scores = score_map(Corners()(image)[0])[0]
    assert scores.shape == (64, 96) and scores[30, 30] < 1e-3 and max(scores[y, x] for x, y in places) > 0.05
    assert bool(torch.isfinite(Corners()(torch.zeros(1, 1, 16, 16))[0]).all())
