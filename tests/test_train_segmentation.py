"""Training of segmentation: its loss, what is trained and what is not, and its files."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from vpr.categories import CITYSCAPES_4, CS34_ID, IGNORED
from vpr.category_files import write_categories
from vpr.config import load
from vpr.core import ConfigError, DataError
from vpr.evaluation.segmentation import Confusion, confusion
from vpr.training import homographies, loop
from vpr.training.absent_classes import AbsentSettings, absent_loss
from vpr.training.grey_images import cut_labels_to, cut_to
from vpr.training.randomness import randomness
from vpr.training.segmentation import SUPERPOINT, Settings, build, dice_loss, predicted, segmentation_loss
from vpr.training.tasks import Settings as RunSettings
from vpr.weights import record_of

SIZE = (64, 48)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Dark sky over a bright road with a striped car, in the layout of folders."""
    for split, count in (("train", 4), ("val", 2)):
        for kind in ("images", "labels"):
            (tmp_path / kind / split).mkdir(parents=True)
        for number in range(count):
            image, mask = np.full((48, 64), 40, np.uint8), np.full((48, 64), CS34_ID["sky"], np.uint8)
            image[24:], mask[24:] = 180, CS34_ID["road"]
            image[20:40, 10 + 5 * number : 30 + 5 * number : 4] = 250
            mask[20:40, 10 + 5 * number : 30 + 5 * number] = CS34_ID["car"]
            cv2.imwrite(str(tmp_path / "images" / split / f"{number}.png"), image)
            cv2.imwrite(str(tmp_path / "labels" / split / f"{number}.png"), mask)
    return tmp_path


def task_of(root: Path, **values: object) -> Settings:
    return Settings(root=root, layout="folders", size=SIZE, width=16, **values)


def test_the_loss_is_small_for_the_truth_and_ignores_what_is_unknown() -> None:
    masks = torch.full((1, 32, 32), IGNORED, dtype=torch.uint8)
    masks[:, :16] = 1
    logits = torch.zeros(1, 3, 4, 4)
    logits[:, 1] = 20
    assert segmentation_loss(logits, masks, 0.5) < 1e-3
    other = logits.clone()
    other[:, 2, 3:] = 40  # where nothing is known
    assert segmentation_loss(other, masks, 0.5) < 1e-3
    assert segmentation_loss(-logits, masks, 0.5) > 5
    assert segmentation_loss(logits, torch.full_like(masks, IGNORED), 0.5) == 0


def test_dice_by_hand() -> None:
    probabilities = torch.tensor([[[[1.0, 0.5]], [[0.0, 0.5]]]])  # two classes, two pixels
    classes, known = torch.tensor([[[0, 1]]]), torch.ones(1, 1, 2, dtype=torch.bool)
    # class 0: 2 * 1 / (1.5 + 1); class 1: 2 * 0.5 / (0.5 + 1)
    assert torch.isclose(dice_loss(probabilities, classes, known), torch.tensor(1 - (0.8 + 2 / 3) / 2))


def test_the_loss_of_absent_classes_by_hand() -> None:
    logits = torch.tensor([[[[2.0, 0.0]], [[0.0, 0.0]], [[0.0, 0.0]]]]).log_softmax(1)
    absent = torch.tensor([[True, False, True]])
    left = [1 / (torch.e**2 + 2), 1 / 3]  # the probability of the one class that may occur, at either pixel
    expected = -sum(np.log(each) for each in left) / 2
    assert float(absent_loss(logits + 3, absent)) == pytest.approx(expected, rel=1e-5)
    assert absent_loss(logits, torch.zeros(1, 3, dtype=torch.bool)) == 0


def test_photographs_without_some_classes_teach_that_these_are_not_there(root: Path) -> None:
    folder = root / "indoors"
    folder.mkdir()
    for name in ("hall_0.png", "hall_1.png", "street.png"):
        cv2.imwrite(str(folder / name), np.full((48, 64), 40, np.uint8))  # as dark as the sky
    absent = AbsentSettings(folder=folder, patterns=("hall*",), classes=("sky", "vehicle"), share=0.5)
    task = build(task_of(root, absent=(absent,)))
    batch = task.batch(4, randomness(0, 1))
    names = task.categories.names
    assert batch.unlabelled.shape == (2, 1, 48, 64) and batch.warps.shape == (2, 3, 3)
    assert {names[i] for i in batch.absent[0].nonzero()[:, 0].tolist()} == {"sky", "vehicle"}
    losses = task.losses(task.model, batch, randomness(0, 2))
    losses["absent"].backward()
    with_absent = losses["segmentation"] + losses["absent"]
    assert torch.isclose(losses["loss"], with_absent) and losses["absent"] > 0.1
    sky = list(names).index("sky")
    assert task.model.segmentation.last.bias.grad[sky] > 0  # a step makes the sky less probable
    with pytest.raises(DataError, match="no photograph's name matches attic"):
        build(task_of(root, absent=(absent.model_copy(update={"patterns": ("attic*",)}),)))
    with pytest.raises(ConfigError, match="have to be of some class"):
        build(task_of(root, absent=(absent.model_copy(update={"classes": tuple(names)}),)))


def test_labels_are_warped_as_images_are() -> None:
    mask = torch.zeros(1, 24, 32, dtype=torch.uint8)
    mask[:, 5:15, 8:20] = 3
    shift = torch.tensor([[[1.0, 0, 4], [0, 1, -2], [0, 0, 1]]])
    moved = homographies.warp_labels(mask, shift, (32, 24), IGNORED)
    assert (moved[0, 3:13, 12:24] == 3).all()
    assert (moved[0, :, :4] == IGNORED).all() and (moved[0, 22:] == IGNORED).all()
    warp = homographies.sample_homographies(1, (32, 24), homographies.Settings(), torch.Generator().manual_seed(1))
    image = homographies.warp_images((mask == 3)[:, None].float(), warp, (32, 24))[0, 0]
    labels = homographies.warp_labels(mask, warp, (32, 24), 0)[0]
    assert ((image > 0.9) <= (labels == 3)).all() and ((image < 0.1) <= (labels == 0)).all()


def test_masks_are_cut_as_images_are() -> None:
    image = np.random.default_rng(0).integers(0, 2, (6, 10), np.uint8) * 255
    assert np.array_equal(cut_labels_to(image, (6, 6)), cut_to(image, (6, 6)))


def test_a_frozen_backbone_stays_and_the_head_learns(root: Path, tmp_path: Path) -> None:
    task = build(task_of(root, warped_pair=False))
    before = {key: value.clone() for key, value in task.model.network.state_dict().items()}
    settings = loop.Settings(steps=8, batch_size=2, learning_rate=5e-3, warmup_steps=0, validate_every=8, workers=1)
    best = loop.train(task, settings, tmp_path / "run", torch.device("cpu"))
    assert all(torch.equal(value, before[key]) for key, value in task.model.network.state_dict().items())
    log = (tmp_path / "run" / "validation.csv").read_text().splitlines()
    values = dict(zip(log[0].split(","), log[-1].split(","), strict=True))
    assert float(values["pixel_accuracy"]) > 0.5
    assert set(load_file(best)) == set(task.model.segmentation.state_dict())
    record = record_of(str(best))
    assert record is not None and record.trained_for is not None
    assert (record.loads, record.trained_for.weights) == (("segmentation",), "vpr-superpoint")


def test_joint_training_moves_all_three_heads(root: Path, tmp_path: Path) -> None:
    task = build(task_of(root, warped_pair=True).model_copy(update={"frozen": False}))
    task.points = [np.array([[20.0, 30.0], [40.0, 25.0]], np.float32)] * 4
    task.model.network.requires_grad_(True)
    task.model.frozen = False
    losses = task.losses(task.model, task.batch(2, randomness(0, 1)), randomness(0, 2))
    assert set(losses) == {"loss", "segmentation", "detector", "descriptor"}
    losses["loss"].backward()
    touched = {name.split(".")[1][:5] for name, each in task.model.named_parameters() if each.grad is not None}
    assert {"conv1", "convP", "convD"} <= touched
    task.export(task.model, tmp_path / "best.safetensors")
    record = record_of(str(tmp_path / "best.safetensors"))
    assert record is not None and record.trained_for is not None
    assert record.trained_for.weights.endswith(SUPERPOINT)
    assert (tmp_path / SUPERPOINT).exists()


def test_batches_depend_on_seed_and_step_alone(root: Path) -> None:
    task = build(task_of(root))
    first, again, other = (task.batch(2, randomness(0, step)) for step in (1, 1, 2))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first.first, other.first)


def test_classes_from_a_file(root: Path, tmp_path: Path) -> None:
    write_categories(tmp_path / "four.json", CITYSCAPES_4)
    task = build(task_of(root, category_file=tmp_path / "four.json"))
    assert task.categories.names == CITYSCAPES_4.names
    assert set(task.seen.masks(task.seen.rows).unique().tolist()) == {1, 2, 3}  # flat, dynamic, unstable


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (["task.layout=coco", "task.load_panoptic=false"], "needs load_panoptic or use_cs34_masks"),
        (["task.use_cs34_masks=true"], "for layout = 'coco'"),
        (["task.frozen=false"], "needs task.labels"),
        (["task.frozen=false", "task.labels=x", "task.warped_pair=false"], "two views"),
        (["task.descriptor_loss=none"], "expected one of"),
    ],
)
def test_settings_that_do_not_fit_are_said(values: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        load(RunSettings, None, ["task.method=segmentation", "task.root=x", *values])


def test_a_head_for_other_classes_is_refused(root: Path, tmp_path: Path) -> None:
    first = build(task_of(root))
    first.export(first.model, tmp_path / "seven.safetensors")
    with pytest.raises(ConfigError, match="7 classes"):
        build(task_of(root, head=str(tmp_path / "seven.safetensors"), categories="cs4"))
    again = build(task_of(root, head=str(tmp_path / "seven.safetensors")))
    maps = torch.randn(1, 128, 6, 8)
    assert torch.allclose(again.model.segmentation(maps), first.model.segmentation(maps), atol=2e-2)


def test_measures_by_hand() -> None:
    truth = np.array([[0, 0, 1, IGNORED]], np.uint8)
    found = confusion(truth, np.array([[0, 1, 1, 0]], np.uint8), 3)
    assert found.counts.tolist() == [[1, 1, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0]]
    assert found.pixel_accuracy == pytest.approx(2 / 3)
    assert found.iou[:2].tolist() == [0.5, 0.5] and np.isnan(found.iou[2])
    assert found.mean_iou == 0.5 and found.class_accuracy[0] == 0.5
    assert Confusion.none(3).mean_iou == 0.0
    assert (found + found).counts.sum() == 6


def test_predictions_are_enlarged_to_the_image() -> None:
    logits = torch.zeros(1, 2, 2, 2)
    logits[0, 0, :, 0] = logits[0, 1, :, 1] = 5
    ids = predicted(logits, (16, 8))
    assert ids.shape == (1, 8, 16) and (ids[0, :, :7] == 0).all() and (ids[0, :, 9:] == 1).all()


def test_pictures_show_what_they_say(root: Path) -> None:
    task = build(task_of(root, warped_pair=False))
    with torch.inference_mode():
        found = task.pictures(task.model.eval(), torch.device("cpu"))["classes"]
    assert found.shape == (2 * 48, 3 * 64, 3)
    assert found[0, 64].tolist() == [70, 130, 180] and found[40, 127].tolist() == [128, 64, 128]  # sky over road
