"""GlueStick's training: partners of line segments, and the loop that learns points and segments together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import write_picture
from test_training_matcher import CPU, SIZE, fast, last, recorded, settings
from torch import Tensor

from vpr.core import ConfigError
from vpr.local_features import superpoint
from vpr.matchers import IMAGE_MATCHERS
from vpr.matchers.gluestick_network import GlueStickNetwork, Segments
from vpr.matchers.points import PointBatch
from vpr.matchers.superglue_network import SuperGlueNetwork
from vpr.training import homographies, line_matching, loop, matcher
from vpr.training.correspondence import UNKNOWN, UNMATCHED, DifferentPlaces, Epipolar, Plane
from vpr.training.initial import start_as_nearest
from vpr.training.line_matching import line_truth, of_superglue
from vpr.training.randomness import randomness


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Images of rectangles, whose sides are segments and whose corners are keypoints."""
    for seed in range(6):
        random = np.random.default_rng(seed)
        image = np.full((SIZE[1], SIZE[0]), 90, np.uint8)
        for _ in range(9):
            (x, y), (width, height) = random.integers((0, 0), (120, 90)), random.integers(20, 60, 2)
            image[y : y + height, x : x + width] = random.integers(0, 255)
        write_picture(tmp_path / "photos" / f"{seed}.png", np.repeat(image[..., None], 3, axis=2))
    return tmp_path / "photos"


def segments(*ends: tuple[float, float, float, float]) -> Tensor:
    return torch.tensor([ends]).view(1, -1, 2, 2)


def shifted_right(by: float) -> Plane:
    shift = torch.eye(3)[None].clone()
    shift[0, 0, 2] = by
    return Plane(shift, torch.tensor([SIZE]))


def test_partners_of_segments_by_hand() -> None:
    ends = segments((10, 10, 50, 10), (10, 60, 90, 60), (100, 20, 100, 100), (20, 90, 60, 90), (150, 10, 150, 60))
    others = segments(
        (70, 10, 30, 10),  # the first, its ends the other way round
        (30, 61, 70, 61),  # half of the second, one pixel beside it
        (119, 80, 121, 40),  # in the third, turned by 3 degrees
        (40, 94, 80, 94),  # 4 pixels from the fourth: nothing is known
        (10, 110, 15, 60),  # the first image does not show its place
    )
    truth = line_truth(ends, others, shifted_right(20.0), line_matching.Settings())
    assert truth.first.tolist() == [[0, 1, 2, UNKNOWN, UNMATCHED]]  # the last leaves the image
    assert truth.second.tolist() == [[0, 1, 2, UNKNOWN, UNMATCHED]]


def test_of_several_pieces_the_longest_is_the_partner() -> None:
    whole, pieces = segments((10, 50, 110, 50)), segments((10, 50, 20, 50), (30, 50, 90, 50), (95, 50, 110, 50))
    truth = line_truth(whole, pieces, shifted_right(0.0), line_matching.Settings())
    assert truth.first.tolist() == [[1]] and truth.second.tolist() == [[UNKNOWN, 0, UNKNOWN]]


def test_truth_of_segments_turned_round_is_that_of_the_pair_turned_round() -> None:
    random = randomness(3)
    warp = homographies.sample_homographies(3, SIZE, homographies.Settings(rotation_deg=30), random.torch)
    starts = torch.rand(3, 40, 1, 2, generator=random.torch) * torch.tensor(SIZE)
    ends = torch.cat([starts, starts + 40 * torch.rand(3, 40, 1, 2, generator=random.torch) - 20], dim=2)
    others = homographies.warp_points(ends.flatten(1, 2), warp).view_as(ends)[:, 5:]
    size, how = torch.tensor([SIZE] * 3), line_matching.Settings(same=5, apart=8)
    there = line_truth(ends, others, Plane(warp, size), how)
    back = line_truth(others, ends, Plane(homographies.invert(warp), size), how)
    assert torch.equal(there.first, back.second) and torch.equal(there.second, back.first)
    matched = there.first[:, 5:] >= 0
    assert matched.sum() > 20
    assert ((there.first[:, 5:] == torch.arange(35)) | ~matched).float().mean() > 0.9


def test_epipolar_lines_say_nothing_of_segments_and_different_places_share_none() -> None:
    ends = segments((10, 10, 50, 10))
    unknown = line_truth(ends, ends, Epipolar(torch.eye(3)[None], torch.tensor([SIZE])), line_matching.Settings())
    assert unknown.first.tolist() == unknown.second.tolist() == [[UNKNOWN]]
    none = line_truth(ends, ends, DifferentPlaces(torch.ones(1)), line_matching.Settings())
    assert none.first.tolist() == none.second.tolist() == [[UNMATCHED]]


def test_gluestick_starts_from_superglue() -> None:
    """Without segments it scores points as SuperGlue does before optimal transport."""
    torch.manual_seed(0)
    superglue = SuperGlueNetwork((16, 32), layers=4).eval()
    network = GlueStickNetwork((16, 32), layers=4)
    start_as_nearest(network)
    network.load_state_dict({**network.state_dict(), **of_superglue(superglue.state_dict())})
    assert of_superglue(network.state_dict()).keys() == network.state_dict().keys()
    batch = PointBatch(torch.rand(1, 9, 2), torch.rand(1, 9), torch.randn(1, 9, 32))
    none = Segments(torch.zeros(1, 0, 2, 2), torch.zeros(1, 0), torch.zeros(1, 0, 2, dtype=torch.int64))
    with torch.inference_mode():
        x = batch.descriptors + superglue.kenc(batch)
        x0, x1 = superglue.gnn(x, x, None, None)
        similarity = superglue.final_proj(x0) @ superglue.final_proj(x1).mT / 32**0.5
        expected = torch.cat([similarity, superglue.bin_score.expand(1, 9, 1)], dim=2).log_softmax(2)[:, :, -1]
        found = network.eval()(batch, batch, none, none).points[:, :-1, -1]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def task_of(photos: Path, **changed: Any) -> matcher.MatcherTask:
    features = superpoint.Settings(weights="vpr-superpoint", longest_side=max(SIZE), keypoint_threshold=0.0)
    values = {
        "points": 32,
        "lines": line_matching.Settings(count=6, min_length=8.0),
        "pool": 2,
        "validation_pairs": 2,
        "layers": 2,
    }
    return matcher.build(settings(photos, network="gluestick", features=features, **{**values, **changed}))


def test_points_and_segments_are_learned_by_heart(photos: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    task = task_of(photos)
    best = loop.train(task, fast(steps=20, overfit=1, learning_rate=3e-3), tmp_path, CPU)
    assert last(tmp_path, "matched") < 0.3 and last(tmp_path, "lines") < 0.3
    header = (tmp_path / "validation.csv").read_text().splitlines()[0]
    assert "line_f_score" in header and "nearest_precision" in header
    record = recorded(best)
    assert record.loads == ("gluestick",) and record.recipe["superpoint"] == "vpr-superpoint"
    method = IMAGE_MATCHERS["gluestick"]
    built = method.build(method.settings(weights=str(best), **record.recipe), CPU)
    image = task.sources[0].draw(1, randomness(0), held=True).first[0]
    assert len(built.match(image, [image])) == 1


def test_an_interrupted_training_ends_as_one_that_was_not(photos: Path, tmp_path: Path) -> None:
    how = fast(steps=3, checkpoint_every=1, log_every=1)
    torch.manual_seed(0)
    loop.train(task_of(photos), how, tmp_path / "whole", CPU)
    torch.manual_seed(0)
    stopped, losses = task_of(photos), iter(range(2))

    def interrupted(*arguments: Any) -> dict[str, Tensor]:
        if next(losses, None) is None:
            raise KeyboardInterrupt
        return matcher.MatcherTask.losses(stopped, *arguments)

    stopped.losses = interrupted  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        loop.train(stopped, how, tmp_path / "parts", CPU)
    loop.train(task_of(photos), how, tmp_path / "parts", CPU)
    whole, parts = ((tmp_path / each / loop.BEST).read_bytes() for each in ("whole", "parts"))
    assert whole == parts


def test_what_does_not_fit_is_said(photos: Path) -> None:
    with pytest.raises(ConfigError, match=r"'gluestick' is for task\.features\.method = 'superpoint'"):
        matcher.build(settings(photos, network="gluestick"))
    with pytest.raises(ConfigError, match=r"task\.points must be at least 16 more"):
        task_of(photos, points=20)
