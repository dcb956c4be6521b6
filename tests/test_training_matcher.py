"""Ground truth of correspondences, sources of pairs, losses, and a matcher that learns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from small_methods import WEIGHTS
from torch import Tensor
from torch.nn import functional

from vpr.core import ConfigError, DataError
from vpr.datasets.posed_views import read_city, read_megadepth, read_millimetres, read_scannet
from vpr.demo_city import depth_path, read_shots, write_demo_city
from vpr.local_features import rootsift
from vpr.matchers.imp_assignment import assignment
from vpr.matchers.imp_network import ImpNetwork
from vpr.matchers.lightglue_network import LightGlueNetwork
from vpr.matchers.points import PointBatch
from vpr.matchers.sinkhorn import log_assignment
from vpr.matchers.superglue_network import SuperGlueNetwork
from vpr.training import homographies, loop, matcher, pairs, photometric
from vpr.training.correspondence import (
    UNKNOWN,
    UNMATCHED,
    Depth,
    DepthView,
    DifferentPlaces,
    Epipolar,
    Plane,
    Settings,
    Truth,
    epipolar_distance,
    reproject,
)
from vpr.training.grey_images import cut_matrix, cut_to
from vpr.training.initial import SHARPNESS, start_as_nearest
from vpr.training.matching_losses import assignment_loss, judge
from vpr.training.pose_consistency import pose_consistency_loss
from vpr.training.randomness import randomness
from vpr.weights import Record, record_of

CPU = torch.device("cpu")
SIZE = (160, 120)
CALM = photometric.Settings(chance=0, night=0)


def tensor(*points: tuple[float, float]) -> Tensor:
    return torch.tensor([points], dtype=torch.float32)


# --- ground truth


def test_partners_of_a_shift_by_hand() -> None:
    shift = torch.eye(3)[None].clone()
    shift[0, 0, 2] = 20.0
    points = tensor((10, 10), (50, 50), (70, 20), (150, 60), (30, 90), (31, 90))
    others = tensor((30, 10), (74, 50), (99, 100), (5, 5), (51, 90))
    truth = Plane(shift, torch.tensor([SIZE])).truth(points, others, torch.zeros(1, 6, 5), Settings())
    # (10, 10) is (30, 10) exactly; (50, 50) falls 4 pixels beside (74, 50), which says nothing; (70, 20) has nobody;
    # (150, 60) leaves the picture; of two that compete for (51, 90) the nearer has it.
    assert truth.first.tolist() == [[0, UNKNOWN, UNMATCHED, UNMATCHED, UNKNOWN, 4]]
    # (99, 100) and (5, 5), which the first picture does not show, have nobody.
    assert truth.second.tolist() == [[0, UNKNOWN, UNMATCHED, UNMATCHED, 5]]


def test_truth_turned_round_is_the_truth_of_the_pair_turned_round() -> None:
    random = randomness(3)
    warp = homographies.sample_homographies(4, SIZE, homographies.Settings(rotation_deg=30), random.torch)
    points, others = (torch.rand(4, n, 2, generator=random.torch) * torch.tensor(SIZE) for n in (60, 50))
    size = torch.tensor([SIZE] * 4)
    nothing = torch.zeros(4, 60, 50)
    there = Plane(warp, size).truth(points, others, nothing, Settings(same=8, apart=12))
    back = Plane(homographies.invert(warp), size).truth(others, points, nothing.mT, Settings(same=8, apart=12))
    assert torch.equal(there.first, back.second) and torch.equal(there.second, back.first)
    matched = (there.first >= 0).nonzero().tolist()
    assert len(matched) > 10
    assert all(there.second[pair, there.first[pair, row]] == row for pair, row in matched)


def wall(distance: float, size: tuple[int, int] = SIZE) -> Tensor:
    return torch.full((1, size[1], size[0]), distance)


def test_depth_sees_what_is_hidden() -> None:
    """A wall 10 m away, the camera moves 1 m to the right; in the second picture something stands 4 m away."""
    matrix = torch.tensor([[[100.0, 0, 79.5], [0, 100, 59.5], [0, 0, 1]]])
    pose = torch.eye(4)[None].clone()
    pose[0, 0, 3] = -1.0  # points move left by 100 * 1 / 10 = 10 pixels
    behind = wall(10.0)
    behind[0, :, 100:120] = 4.0
    unknown = wall(10.0)
    unknown[0, :, 20:30] = 0.0
    unknown[0, :, 30:40] = torch.inf
    points = tensor((60, 60), (115, 60), (5, 60), (25, 30), (35, 30), (80, 20))
    others = tensor((50, 60), (105, 60), (151, 5))
    geometry = Depth(DepthView(unknown, matrix), DepthView(behind, matrix), pose)
    truth = geometry.truth(points, others, torch.zeros(1, 6, 3), Settings())
    assert truth.first.tolist() == [[0, UNMATCHED, UNMATCHED, UNKNOWN, UNKNOWN, UNMATCHED]]
    assert truth.second.tolist() == [[0, UNMATCHED, UNMATCHED]]
    assert 0.5 < geometry.overlap(homographies.pixel_grid(SIZE, CPU)[:, ::7]) < 0.95


def test_depth_agrees_with_the_demo_city(city: Path) -> None:
    """The renderer's own reprojection, in float64, is the oracle."""
    from vpr.demo_city import read_depth
    from vpr.demo_city import reproject as oracle

    shots = [shot for shot in read_shots(city) if shot.place == 0][:2]
    depths = [read_depth(depth_path(city, shot)) for shot in shots]
    y, x = np.nonzero(np.isfinite(depths[0]))
    pixels = np.column_stack([x, y])[::501].astype(np.float64)
    wanted, expected_depth = oracle(
        pixels, depths[0][y[::501], x[::501]].astype(np.float64), shots[0].camera, shots[1].camera
    )
    views = [
        DepthView(torch.from_numpy(depth)[None], torch.from_numpy(shot.camera.matrix)[None].float())
        for depth, shot in zip(depths, shots, strict=True)
    ]
    pose = shots[1].camera.world_to_camera @ np.linalg.inv(shots[0].camera.world_to_camera)
    found = reproject(torch.from_numpy(pixels)[None].float(), *views, torch.from_numpy(pose)[None].float())
    before = expected_depth > 0.1
    assert before.sum() > 20
    assert np.abs(found.points[0].numpy() - wanted)[before].max() < 0.05


def test_epipolar_distance_against_a_plain_loop() -> None:
    random = np.random.default_rng(0)
    matrix = random.normal(size=(3, 3))
    points, others = random.uniform(0, 100, (5, 2)), random.uniform(0, 100, (4, 2))
    found = epipolar_distance(
        *(torch.from_numpy(each)[None].float() for each in (points, others)), torch.from_numpy(matrix)[None].float()
    )[0]
    for i, (x, y) in enumerate(points):
        for j, (u, v) in enumerate(others):
            line, back = matrix @ [x, y, 1], matrix.T @ [u, v, 1]
            residual = abs(np.array([u, v, 1]) @ line)
            wanted = max(residual / np.hypot(*line[:2]), residual / np.hypot(*back[:2]))
            assert float(found[i, j]) == pytest.approx(wanted, rel=1e-3)


def test_an_estimated_matrix_gives_partners_only_where_all_agree() -> None:
    """A pure sideways motion: partners lie in the same row. Nothing is known of the others."""
    sideways = torch.tensor([[[0.0, 0, 0], [0, 0, -1], [0, 1, 0]]])
    points = tensor((10, 10), (20, 40), (30, 70), (40, 90))
    others = tensor((15, 10), (60, 41), (35, 80), (45, 90), (70, 90))
    similarity = torch.full((1, 4, 5), 0.1)
    similarity[0, 0, 0] = similarity[0, 1, 1] = similarity[0, 2, 2] = 0.9  # the third pair is 10 pixels off its line
    similarity[0, 3, 3], similarity[0, 3, 4] = 0.9, 0.89  # and the fourth cannot decide
    truth = Epipolar(sideways, torch.tensor([[320, 240]])).truth(points, others, similarity, Settings())
    assert truth.first.tolist() == [[0, 1, UNKNOWN, UNKNOWN]]
    assert truth.second.tolist() == [[0, 1, UNKNOWN, UNKNOWN, UNKNOWN]]
    possible = ~truth.impossible[0]
    assert possible.nonzero().tolist() == [[0, 0], [1, 1], [3, 3], [3, 4]]


def test_the_matches_nearby_tell_who_is_a_partner_and_who_has_none() -> None:
    """All moves six pixels to the right, along the lines; one point changed its looks, and one is gone, one is new."""
    generator = torch.Generator().manual_seed(0)
    x, y = torch.meshgrid(torch.arange(16) * 18.0 + 12, torch.arange(12) * 18.0 + 12, indexing="xy")
    points = torch.stack([x.flatten(), y.flatten()], dim=1)
    descriptors = functional.normalize(torch.randn(len(points), 32, generator=generator), dim=1)
    changed, gone = 85, 120
    others, seen = points + torch.tensor([6.0, 0.0]), descriptors.clone()
    seen[changed] = -seen[changed] + 0.2 * seen[changed + 1]
    others[gone] += torch.tensor([9.0, 9.0])  # it is nothing's partner, and nothing is where the gone one would be
    seen[gone] = -seen[gone]
    sideways = torch.tensor([[[0.0, 0, 0], [0, 0, -1], [0, 1, 0]]])
    similarity = descriptors @ seen.T
    similarity[changed, changed] = 0.01  # unlike, but not opposite
    truth = Epipolar(sideways, torch.tensor([[320, 240]])).truth(
        points[None], others[None], similarity[None], Settings()
    )
    assert int(truth.first[0, changed]) == changed
    assert int(truth.first[0, gone]) == UNMATCHED and int(truth.second[0, gone]) == UNMATCHED
    same = torch.arange(len(points))
    known = truth.first[0] >= 0
    assert known.sum() == len(points) - 1 and torch.equal(truth.first[0, known], same[known])


def test_negative_pairs_have_no_partners() -> None:
    truth = DifferentPlaces(torch.ones(2)).truth(
        torch.zeros(2, 3, 2), torch.zeros(2, 4, 2), torch.zeros(2, 3, 4), Settings()
    )
    assert truth.first.shape == (2, 3) and truth.second.shape == (2, 4)
    assert (truth.first == UNMATCHED).all() and (truth.second == UNMATCHED).all()


# --- losses


def test_the_assignment_loss_by_hand() -> None:
    scores = torch.full((2, 3, 4), 0.25).log()
    scores[0, 0, 1] = torch.tensor(0.5).log()
    impossible = torch.zeros(2, 2, 3, dtype=torch.bool)
    impossible[1, 0, :2] = True  # half of the first point; a quarter of the first and of the second of the other side
    truth = Truth(
        torch.tensor([[1, UNMATCHED], [UNKNOWN, UNKNOWN]]),
        torch.tensor([[UNMATCHED, 0, UNKNOWN], [UNKNOWN] * 3]),
        impossible,
    )
    found = assignment_loss(scores, truth)
    assert float(found.matched) == pytest.approx(np.log(2)) and float(found.unmatched) == pytest.approx(np.log(4))
    by_hand = (np.log(2) / 2 + 2 * np.log(4 / 3) / 3) / 2
    assert float(found.misplaced) == pytest.approx(by_hand)
    assert float(found.total) == pytest.approx((np.log(2) + np.log(4) + by_hand) / 2)


@pytest.mark.parametrize("certain", [0.0, -torch.inf])
def test_the_assignment_loss_and_its_gradient_are_finite(certain: float) -> None:
    scores = torch.full((1, 2, 2), certain, requires_grad=True)
    truth = Truth(torch.tensor([[0]]), torch.tensor([[0]]), torch.ones(1, 1, 1, dtype=torch.bool))
    total = assignment_loss(scores, truth).total
    total.backward()
    assert torch.isfinite(total) and scores.grad is not None and torch.isfinite(scores.grad).all()


def test_matches_are_judged_against_what_is_known() -> None:
    scores = torch.full((1, 5, 5), -9.0)
    for row, column in ((0, 0), (1, 2), (2, 1), (3, 3)):
        scores[0, row, column] = np.log(0.9)
    impossible = torch.zeros(1, 4, 4, dtype=torch.bool)
    truth = Truth(torch.tensor([[0, 1, UNMATCHED, UNKNOWN]]), torch.tensor([[0, 1, UNKNOWN, UNKNOWN]]), impossible)
    counts = {key: int(value) for key, value in judge(scores, truth, 0.2).items()}
    assert counts == {"found": 4, "right": 1, "wrong": 2, "wanted": 2}
    assert int(judge(scores, truth, 0.95)["found"]) == 0
    impossible[0, 3, 3] = True
    assert int(judge(scores, truth, 0.2)["wrong"]) == 3


# --- sources


@pytest.fixture(scope="module")
def city(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("city") / "city"
    write_demo_city(out, places=3, size=(240, 180), workers=1, with_depth=True)
    return out


@pytest.fixture(scope="module")
def photos(city: Path) -> Path:
    return city / "database"


def test_cutting_moves_pixels_as_the_matrix_says() -> None:
    image = np.zeros((90, 200), np.uint8)
    image[40:43, 100:103] = 255  # around (101, 41)
    for size in ((80, 60), (100, 90), (400, 270)):
        cut = cut_to(image, size)
        x, y, _ = cut_matrix((200, 90), size) @ [101, 41, 1]
        rows, columns = np.nonzero(cut > 100)
        assert cut.shape == size[::-1]
        assert abs(columns.mean() - x) < 0.6 and abs(rows.mean() - y) < 0.6


def test_homography_pairs_show_the_same_where_they_say_so(photos: Path) -> None:
    source = pairs.HomographyPairs(pairs.HomographySettings(folder=photos, held_out=2), SIZE)
    part = source.draw(4, randomness(1), held=False)
    again = source.draw(4, randomness(1), held=False)
    assert torch.equal(part.first, again.first) and torch.equal(part.second, again.second)
    assert isinstance(part.geometry, Plane)
    moved = homographies.warp_images(part.first.float(), part.geometry.homography, SIZE)
    shown = moved[:, 0] > 0
    assert (moved - part.second.float())[:, 0][shown].abs().median() < 8
    assert not torch.equal(source.draw(4, randomness(1), held=True).first, part.first)


@pytest.mark.parametrize("layout", ["demo_city", "megadepth", "scannet"])
def test_scenes_in_every_layout_show_the_same_where_they_say_so(layout: str, city: Path, tmp_path: Path) -> None:
    root = {
        "demo_city": lambda: city,
        "megadepth": lambda: as_megadepth(city, tmp_path),
        "scannet": lambda: as_scannet(city, tmp_path),
    }[layout]()
    source = pairs.ScenePairs(pairs.ScenesSettings(folder=root, layout=layout, overlap=(0.1, 1.0), held_out=0.5), SIZE)
    part = source.draw(6, randomness(0), held=False)
    assert isinstance(part.geometry, Depth) and part.first.shape == (6, 1, 120, 160)
    forward = reproject(
        homographies.pixel_grid(SIZE, CPU).expand(6, -1, -1),
        part.geometry.first,
        part.geometry.second,
        part.geometry.pose,
    )
    near = (forward.depth - forward.surface).abs() < 0.03 * forward.surface
    assert near.float().mean() > 0.1  # both depths tell of one surface
    patches = 5
    blurred = [
        torch.nn.functional.avg_pool2d(each.float(), patches, 1, patches // 2) for each in (part.first, part.second)
    ]
    width = SIZE[0]
    places = (forward.points.round()[..., 1] * width + forward.points.round()[..., 0]).long()
    correlations = []
    for pair in range(6):
        chosen = near[pair]
        if chosen.sum() < 500:
            continue
        here = blurred[0][pair].flatten()[chosen]
        there = blurred[1][pair].flatten()[places[pair][chosen]]
        correlations.append(float(torch.corrcoef(torch.stack([here, there]))[0, 1]))
    assert len(correlations) >= 2 and np.median(correlations) > 0.5


def as_megadepth(city: Path, out: Path) -> Path:
    """The city in the folders of Glue Factory's MegaDepth, arrays of paths pickled as they are there."""
    import h5py

    from vpr.demo_city import read_depth

    shots = [shot for shot in read_shots(city) if shot.place == 1]
    images = np.array([f"Undistorted/{row}.jpg" for row in range(len(shots))] + [None], dtype=object)
    depths = np.array([f"depth/{row}.h5" for row in range(len(shots))] + [None], dtype=object)
    (out / "Undistorted").mkdir()
    (out / "depth").mkdir()
    (out / "scene_info").mkdir()
    for row, shot in enumerate(shots):
        (out / images[row]).write_bytes((city / shot.role / shot.name).read_bytes())
        depth = read_depth(depth_path(city, shot))
        with h5py.File(out / depths[row], "w") as file:
            file["depth"] = np.where(np.isfinite(depth), depth, 0)
    count = len(shots) + 1
    matrices = np.array([*(shot.camera.matrix for shot in shots), np.eye(3)])
    poses = np.array([*(shot.camera.world_to_camera for shot in shots), np.eye(4)])
    overlap = np.full((count, count), 0.5)
    np.savez(
        out / "scene_info" / "0001.npz",
        image_paths=images,
        depth_paths=depths,
        intrinsics=matrices,
        poses=poses,
        overlap_matrix=overlap,
    )
    return out


def test_lists_of_scenes_divide_megadepth(city: Path, tmp_path: Path) -> None:
    root = as_megadepth(city, tmp_path)
    table = root / "scene_info" / "0001.npz"
    (root / "scene_info" / "0002.0.npz").write_bytes(table.read_bytes())  # as D2-Net names its files
    for name, scenes in (("train_scenes_clean", "0001\n0002\n0009\n"), ("valid_scenes_clean", "0002\n")):
        (root / f"{name}.txt").write_text(scenes)
    lists = {"scenes": "train_scenes_clean", "valid_scenes": "valid_scenes_clean"}
    given = {"folder": root, "layout": "megadepth", "overlap": (0.1, 1.0)}
    source = pairs.ScenePairs(pairs.ScenesSettings(**given, **lists), SIZE)
    assert {held: [scene.name for scene in scenes] for held, scenes in source.scenes.items()} == {
        False: ["0001"],
        True: ["0002"],
    }
    assert len(source.draw(2, randomness(0), held=True).first) == 2
    with pytest.raises(DataError, match="every scene of the training is one of validation"):
        pairs.ScenePairs(pairs.ScenesSettings(**given, valid_scenes="train_scenes_clean"), SIZE)
    with pytest.raises(DataError, match="lists are not part of vpr"):
        pairs.ScenePairs(pairs.ScenesSettings(**given, scenes="test_scenes_clean"), SIZE)


def as_scannet(city: Path, out: Path) -> Path:
    from vpr.demo_city import read_depth

    folder = out / "scene0000_00"
    for name in ("color", "depth", "pose", "intrinsic"):
        (folder / name).mkdir(parents=True)
    shots = read_shots(city)
    for row, shot in enumerate(shots):
        (folder / "color" / f"{row}.jpg").write_bytes((city / shot.role / shot.name).read_bytes())
        depth = read_depth(depth_path(city, shot))
        steps = np.where(np.isfinite(depth) & (depth < 65), 1000 * depth, 0).astype(np.uint16)
        cv2.imwrite(str(folder / "depth" / f"{row}.png"), steps)
        pose = np.linalg.inv(shot.camera.world_to_camera) if row else np.full((4, 4), -np.inf)
        np.savetxt(folder / "pose" / f"{row}.txt", pose)
    matrix = np.eye(4)
    matrix[:3, :3] = shots[0].camera.matrix
    np.savetxt(folder / "intrinsic" / "intrinsic_color.txt", matrix)
    return out


def test_frames_without_a_pose_are_left_out(city: Path, tmp_path: Path) -> None:
    scene = read_scannet(as_scannet(city, tmp_path))[0]
    assert scene.views[0].image.name == "1.jpg" and len(scene.views) == len(read_shots(city)) - 1


def test_scenes_that_are_none_are_told(tmp_path: Path) -> None:
    for read, reason in (
        (read_megadepth, "no scene_info"),
        (read_scannet, "no scene of ScanNet"),
        (read_city, "no such file"),
    ):
        with pytest.raises(DataError, match=reason):
            read(tmp_path)
    (tmp_path / "scene_info").mkdir()

    class Evil:
        def __reduce__(self) -> Any:
            return len, ("run",)  # Ray puts another function in the place of print

    np.savez(tmp_path / "scene_info" / "x.npz", image_paths=np.array([Evil()], dtype=object), depth_paths=np.zeros(1))
    with pytest.raises(DataError, match=r"it would run builtins\.len"):
        read_megadepth(tmp_path)
    (tmp_path / "broken.png").write_bytes(b"x")
    with pytest.raises(DataError, match="not a 16-bit depth"):
        read_millimetres(tmp_path / "broken.png")


def test_a_city_without_depth_is_told(tmp_path: Path) -> None:
    write_demo_city(tmp_path / "flat", places=1, size=(96, 72), workers=1)
    with pytest.raises(DataError, match="without depth"):
        read_city(tmp_path / "flat")


def test_two_views_take_their_matrix_along_when_they_are_cut(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for name, shape in (("a.png", (300, 400)), ("b.png", (225, 400))):
        cv2.imwrite(str(tmp_path / name), random.integers(0, 255, shape, dtype=np.uint8))
    matrix = random.normal(size=(3, 3))
    columns = [f"f{row}{column}" for row in range(3) for column in range(3)]
    line = ",".join(["a.png", "b.png", "50", *(repr(float(number)) for number in matrix.ravel())])
    few = ",".join(["a.png", "b.png", "5", *["0"] * 9])
    table = tmp_path / "pairs.csv"
    table.write_text("\n".join([",".join(["image_a", "image_b", "inliers", *columns]), line, few, line]) + "\n")
    source = pairs.TwoViewPairs(pairs.TwoViewSettings(table=table, folder=tmp_path, held_out=0.5), SIZE)
    part = source.draw(2, randomness(0), held=False)
    assert isinstance(part.geometry, Epipolar) and len(source.names) == 2
    first, second = np.array([200.0, 100, 1]), np.array([150.0, 90, 1])
    before = second @ matrix @ first
    moved = cut_matrix((400, 225), SIZE) @ second, cut_matrix((400, 300), SIZE) @ first
    after = moved[0] @ part.geometry.fundamental[0].numpy() @ moved[1]
    same = pairs.TwoViewPairs(pairs.TwoViewSettings(table=table, folder=tmp_path, held_out=0.5), SIZE).matrices[0]
    assert np.allclose(same, matrix)
    other = second @ matrix @ np.array([30.0, 250, 1])
    other_after = moved[0] @ part.geometry.fundamental[0].numpy() @ (cut_matrix((400, 300), SIZE) @ [30.0, 250, 1])
    assert after / other_after == pytest.approx(before / other, rel=1e-3)


def manifest(photos: Path) -> Path:
    names = sorted(path.name for path in photos.iterdir())
    path = photos.parent / "places.csv"
    lines = [f"database/{name},{row // 2}" for row, name in enumerate(names)]
    path.write_text("\n".join(["image,place", *lines]) + "\n")
    return path


# --- the task


def settings(photos: Path, **changed: Any) -> matcher.Settings:
    return matcher.Settings(
        **{
            "features": rootsift.Settings(longest_side=160, max_keypoints=64),
            "encoder": (16, 32),
            "layers": 4,
            "size": SIZE,
            "points": 64,
            "light": CALM,
            "homographies": pairs.HomographySettings(
                folder=photos, held_out=2, homography=homographies.Settings(rotation_deg=10, perspective=0.05)
            ),
            "validation_pairs": 4,
            **changed,
        }
    )


def fast(**changed: Any) -> loop.Settings:
    values = {"learning_rate": 1e-3, "batch_size": 2, "warmup_steps": 5, "validate_every": 10_000, "log_every": 10}
    return loop.Settings(**{**values, "ema": 0.9, **changed})


def last(folder: Path, name: str = "loss") -> float:
    header, *lines = (folder / "train.csv").read_text().splitlines()
    return float(lines[-1].split(",")[header.split(",").index(name)])


@pytest.mark.parametrize("network", ["superglue", "lightglue", "imp"])
def test_a_matcher_can_learn_one_batch_by_heart(network: str, photos: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    layers, points, steps, rate = {
        "superglue": (4, 32, 60, 2e-3),
        "lightglue": (2, 32, 240, 1e-3),
        "imp": (2, 32, 30, 1e-3),
    }[network]
    task = matcher.build(settings(photos, network=network, layers=layers, points=points))
    best = loop.train(task, fast(steps=steps, overfit=1, learning_rate=rate), tmp_path, CPU)
    assert last(tmp_path, "matched") < 0.3 and last(tmp_path, "unmatched") < 0.3
    header = (tmp_path / "validation.csv").read_text().splitlines()[0]
    assert "f_score" in header and "nearest_precision" in header
    from vpr.matchers import MATCHERS

    chosen = MATCHERS[network]
    built = chosen.build(chosen.settings(weights=str(best)), CPU)
    if network == "imp":
        assert set(recorded(best).loads) == {"imp", "imp_iterative", "eimp", "eimp_iterative"}
    part = task.sources[0].draw(1, randomness(0), held=True)
    extractor = task.extractor(CPU)
    one, other = (
        extractor.extract([extractor.preprocess(image[0, 0].numpy())])[0] for image in (part.first, part.second)
    )
    assert len(built.match(one, [other])) == 1


def recorded(path: Path) -> Record:
    record = record_of(str(path))
    assert record is not None
    return record


def test_imp_begins_as_transport_on_cosines_in_every_iteration() -> None:
    torch.manual_seed(0)
    network = ImpNetwork((16, 32), iterations=4)
    start_as_nearest(network)
    first, second = (random_points(n) for n in (20, 25))
    with torch.inference_mode():
        cosines = first.descriptors @ second.descriptors.mT
        expected = assignment(SHARPNESS * cosines, network.bin_score, 20)
        for found in network(first, second):
            torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-3)


def moving_camera(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Normalised places (1, N, 2) of points at all depths in two images."""
    random = torch.Generator().manual_seed(seed)
    points = torch.rand(count, 3, generator=random) * torch.tensor([4.0, 3.0, 5.0]) - torch.tensor([2.0, 1.5, -4.0])
    moved = points + torch.tensor([0.8, 0.1, 0.3])
    return points[None, :, :2] / points[None, :, 2:], moved[None, :, :2] / moved[None, :, 2:]


def test_the_pose_loss_is_of_matches_that_do_not_give_the_pose() -> None:
    """0 for the true matches, much for shuffled ones, less the less these weigh; nothing of a flat scene."""
    points, others = moving_camera(40, seed=0)
    truth = Truth(torch.arange(40)[None], torch.arange(40)[None], torch.zeros(1, 40, 40, dtype=torch.bool))
    right = functional.pad(torch.eye(40), (0, 1, 0, 1))[None]
    assert pose_consistency_loss(right, points, others, truth) < 1e-3
    turned = torch.eye(40)
    turned[20:] = turned[20:].roll(1, dims=1).flip(0)
    losses = []
    for weight in (0.05, 1.0):
        scores = functional.pad(torch.cat([torch.eye(40)[:20], weight * turned[20:]]), (0, 1, 0, 1))[None]
        scores.requires_grad_()
        losses.append(pose_consistency_loss(scores, points, others, truth))
        losses[-1].backward()
        losses[-1] = losses[-1].detach()
        assert scores.grad is not None and scores.grad.isfinite().all() and scores.grad.any()
    low, high = (float(each) for each in losses)
    assert 1e-3 < low < high <= 5
    flat = pose_consistency_loss(right, points, points @ torch.tensor([[1.0, 0.1], [-0.1, 1.0]]), truth)
    assert flat == 0
    few = Truth(torch.full((1, 40), UNMATCHED), *truth[1:])
    assert pose_consistency_loss(right, points, others, few) == 0


def test_the_pose_loss_trains_imp_alone(photos: Path) -> None:
    task = matcher.build(settings(photos, network="imp", pose_weight=0.5))
    losses = task.losses(task.model, task.batch(2, randomness(0)), randomness(1))
    expected = (losses["matched"] + losses["unmatched"]) / 2 + 0.5 * losses["pose"]
    assert losses["loss"].item() == pytest.approx(expected.item())
    with pytest.raises(ConfigError, match=r"task.pose_weight is for task.network = 'imp'"):
        matcher.build(settings(photos, pose_weight=0.5))


def random_points(count: int) -> PointBatch:
    descriptors = functional.normalize(torch.randn(2, count, 32), dim=-1)
    return PointBatch(torch.rand(2, count, 2), torch.rand(2, count), descriptors)


def test_superglue_begins_as_transport_on_cosines() -> None:
    torch.manual_seed(0)
    network = SuperGlueNetwork((16, 32), layers=4, sinkhorn_iterations=20)
    start_as_nearest(network)
    first, second = (random_points(n) for n in (20, 25))
    with torch.inference_mode():
        found = network(first, second)
        cosines = first.descriptors @ second.descriptors.mT
        expected = log_assignment(SHARPNESS * cosines, network.bin_score, 20)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_lightglue_begins_with_a_softmax_on_cosines_in_every_layer() -> None:
    torch.manual_seed(0)
    network = LightGlueNetwork(32, 32, layers=2, heads=4)
    start_as_nearest(network)
    first, second = (random_points(n) for n in (20, 25))
    with torch.inference_mode():
        found = network(first, second)
    similarity = SHARPNESS * first.descriptors @ second.descriptors.mT
    expected = similarity.log_softmax(1) + similarity.log_softmax(2) + 2 * functional.logsigmoid(torch.tensor(1.0))
    for layer in found:
        torch.testing.assert_close(layer.log_assignment[:, :-1, :-1], expected, atol=1e-4, rtol=1e-4)


def test_lightglue_of_another_width_begins_with_nearly_the_cosines() -> None:
    torch.manual_seed(0)
    network = LightGlueNetwork(32, 64, layers=2, heads=4)
    start_as_nearest(network)
    rows = torch.randn(5, 32)
    torch.testing.assert_close(network.input_proj(rows) @ network.input_proj(rows).T, rows @ rows.T)


def test_a_pool_holds_the_same_pairs_for_ever(photos: Path) -> None:
    torch.manual_seed(0)
    task = matcher.build(settings(photos, pool=5, points=32))
    batch = task.batch(6, randomness(0, 0, 3))
    assert len(batch.places) == 6 and set(batch.places) <= set(range(5)) and not batch.parts
    one, other = (task.losses(task.model, batch, randomness(0, step)) for step in (0, 1))
    assert one["loss"] == other["loss"]
    again = matcher.build(settings(photos, pool=5, points=32))
    again.model.load_state_dict(task.model.state_dict())
    assert again.losses(again.model, batch, randomness(7))["loss"] == one["loss"]
    alone = [task.losses(task.model.eval(), matcher.MatcherBatch(places=(place,)), randomness(0)) for place in (0, 1)]
    assert alone[0]["loss"] != alone[1]["loss"]


def test_a_pool_of_images_without_points_enough_is_refused(photos: Path) -> None:
    task = matcher.build(settings(photos, pool=2, points=1000))
    with pytest.raises(ConfigError, match=r"lower task\.points"):
        task.losses(task.model, matcher.MatcherBatch(places=(0,)), randomness(0))


def test_all_sources_in_one_batch(photos: Path, city: Path) -> None:
    torch.manual_seed(0)
    task = matcher.build(
        settings(
            photos,
            scenes=(pairs.ScenesSettings(folder=city, held_out=0.3),),
            negative_pairs=pairs.NegativePairsSettings(manifests=(manifest(photos),), held_out=0.5, share=1),
        )
    )
    assert task.shares == pytest.approx([1 / 3] * 3)
    batch = task.batch(12, randomness(0))
    assert sum(len(part.first) for part in batch.parts) == 12 and len(batch.parts) == 3
    losses = task.losses(task.model, batch, randomness(0))
    assert all(torch.isfinite(each) for each in losses.values())
    losses["loss"].backward()
    gradients = [each.grad for each in task.model.parameters() if each.requires_grad]
    assert all(each is not None and torch.isfinite(each).all() for each in gradients)
    figures = task.validate(task.model.eval(), CPU)
    assert 0 <= figures["misled"] <= 1 and 0 <= figures["nearest_precision"] <= 1


def test_negative_pairs_are_of_different_places(photos: Path) -> None:
    source = pairs.NegativePairs(pairs.NegativePairsSettings(manifests=(manifest(photos),), held_out=0.4), SIZE)
    for seed in range(20):
        one, other = source._draw(randomness(seed).numpy, held=False)
        assert source.places.labels[one] != source.places.labels[other]


def test_negative_pairs_that_look_alike_are_of_groups_of_one_pattern(photos: Path) -> None:
    names = sorted(path.name for path in photos.iterdir())
    listed = photos.parent / "groups.csv"
    groups = ["streets a", "streets b", "gardens", "frames"]
    lines = [f"database/{name},,{groups[row % 4]}" for row, name in enumerate(names)]
    listed.write_text("\n".join(["image,place,group", *lines]) + "\n")
    settings = pairs.NegativePairsSettings(
        manifests=(listed,), held_out=0.1, alike=("streets *", "gardens"), alike_share=1
    )
    source = pairs.NegativePairs(settings, SIZE)
    drawn = {source._draw(randomness(seed).numpy, held=False) for seed in range(40)}
    kinds = {tuple(sorted(source.places.group_names[row].split()[0] for row in pair)) for pair in drawn}
    assert kinds == {("streets", "streets"), ("gardens", "gardens")}
    assert all(one != other for one, other in drawn)
    rare = pairs.NegativePairs(settings.model_copy(update={"alike": ("gardens",), "held_out": 0.4}), SIZE)
    assert [] in rare.alike.values()  # too few are left on one side, where the others serve
    for held in (True, False):
        one, other = rare._draw(randomness(0).numpy, held=held)
        assert rare.places.labels[one] != rare.places.labels[other]
    with pytest.raises(DataError, match="no group of the manifests matches towers"):
        pairs.NegativePairs(settings.model_copy(update={"alike": ("towers", "gardens")}), SIZE)


def test_settings_that_cannot_work_are_told(photos: Path) -> None:
    with pytest.raises(ConfigError, match="name a source of pairs"):
        matcher.build(settings(photos, homographies=None))
    with pytest.raises(ConfigError, match="at least 160"):
        matcher.build(settings(photos, features=rootsift.Settings(longest_side=100)))
    with pytest.raises(ConfigError, match="unknown layout 'x'"):
        matcher.build(settings(photos, scenes=(pairs.ScenesSettings(folder=photos, layout="x"),)))


@pytest.mark.parametrize(
    ("method", "network"), [("aliked", "lightglue"), ("disk", "superglue"), ("xfeat", "lightglue")]
)
def test_a_matcher_is_trained_on_any_features(method: str, network: str, photos: Path, tmp_path: Path) -> None:
    """A few steps on features of small random networks; the weights say what they were trained for."""
    torch.manual_seed(0)
    features = {"method": method, **WEIGHTS[method](tmp_path)}
    chosen = settings(photos, network=network, features=features, points=32)
    best = loop.train(matcher.build(chosen), fast(steps=2), tmp_path / "out", CPU)
    trained_for = record_of(str(best)).trained_for
    assert trained_for is not None and trained_for.method == method and trained_for.weights == features["weights"]


def test_lightglue_is_trained_with_orientations(photos: Path) -> None:
    torch.manual_seed(0)
    chosen = settings(
        photos, network="lightglue", features={"method": "sift", "longest_side": max(SIZE)}, oriented=True
    )
    task = matcher.build(chosen)
    losses = task.losses(task.model, task.batch(2, randomness(0)), randomness(0))
    losses["loss"].backward()
    assert task.model.posenc.Wr.weight.shape[1] == 4 and torch.isfinite(losses["loss"])
    with pytest.raises(ConfigError, match=r"task\.oriented is for task\.network = 'lightglue'"):
        matcher.build(settings(photos, network="superglue", oriented=True))
