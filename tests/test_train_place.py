from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import textured, write_picture
from published import CPU
from safetensors.torch import load_file

from vpr.config import parse
from vpr.core import ConfigError
from vpr.global_descriptors import place
from vpr.global_descriptors.efficientnet import EfficientNetLite0
from vpr.training import appearance, loop, place_descriptor, tasks
from vpr.training.export import as_saved
from vpr.training.metric_learning import MetricLoss
from vpr.training.places import Places
from vpr.training.randomness import randomness

TINY = {
    "blocks": 3, "frozen": 1, "clusters": 4, "ghosts": 2, "layout_width": 2, "dim": 8, "longest_side": 64,
    "sizes": ((64, 48),), "views": 2, "held_out": 0.2, "distractors": 4, "vocabulary_images": 6, "memory": 0,
}  # fmt: skip
CALM = {name: 0.0 for name in appearance.Settings.model_fields} | {"unchanged": 1.0}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Eight places with three shifted views each, two of them of one group, and six single images."""
    folder = tmp_path_factory.mktemp("places")
    lines = ["file,place,group"]
    for number in range(8):
        wide = textured(number, 60, 80)
        for view in range(3):
            write_picture(folder / f"p{number}_{view}.png", wide[3 * view : 3 * view + 48, 4 * view : 4 * view + 64])
            lines.append(f"p{number}_{view}.png,place {number},{'square' if number < 2 else ''}")
    for single in range(6):
        write_picture(folder / f"s{single}.png", textured(100 + single, 48, 64))
        lines.append(f"s{single}.png,,")
    (folder / "manifest.csv").write_text("\n".join(lines) + "\n")
    torch.manual_seed(3)
    torch.save(published_state(EfficientNetLite0(3)), folder / "lite0.pth")
    return folder


def published_state(network: EfficientNetLite0) -> dict[str, torch.Tensor]:
    """Weights under the published names, with BatchNorms that change nothing."""
    found = {}

    def add(convolution, norm, module):
        found[f"{convolution}.weight"] = module.weight.detach().clone()
        channels = module.out_channels
        found[f"{norm}.weight"] = torch.full((channels,), (1 + 1e-3) ** 0.5)
        found[f"{norm}.running_var"], found[f"{norm}.bias"] = torch.ones(channels), torch.rand(channels)
        found[f"{norm}.running_mean"] = torch.zeros(channels)

    add("_conv_stem", "_bn0", network.stem)
    for i, block in enumerate(network.blocks):
        if block.expand is not None:
            add(f"_blocks.{i}._expand_conv", f"_blocks.{i}._bn0", block.expand)
        add(f"_blocks.{i}._depthwise_conv", f"_blocks.{i}._bn1", block.depthwise)
        add(f"_blocks.{i}._project_conv", f"_blocks.{i}._bn2", block.project)
    return found


def settings(folder, **changes):
    given = {
        "method": "place",
        "manifest": folder / "manifest.csv",
        "backbone": str(folder / "lite0.pth"),
        **TINY,
        **changes,
    }
    return parse(place_descriptor.Settings, given)


@pytest.fixture(scope="module")
def task(folder):
    return place_descriptor.build(settings(folder))


# ---- places


def test_whole_groups_are_held_out(folder):
    for share in (0.1, 0.3, 0.5):
        places = Places([folder / "manifest.csv"], (0, 0), share, longest_side=64)
        seen, held = ({places.groups[rows[0]] for rows in side} for side in (places.places, places.held_places))
        assert held and not seen & held
        assert sum(map(len, (places.places, places.held_places))) == 8


def test_a_place_with_the_name_of_a_group_belongs_to_it(tmp_path):
    for name, lines in (
        ("a", "file,place,group\nx.png,square east,square\n"),
        ("b", "file,place\ny.png,square\nz.png,\nw.png,\n"),
    ):
        (tmp_path / f"{name}.csv").write_text(lines)
    places = Places([tmp_path / "a.csv", tmp_path / "b.csv"], (8, 8), 0)
    assert places.groups[0] == places.groups[1] and places.labels[0] != places.labels[1]


def test_images_are_whole_and_in_colour(folder):
    places = Places([folder / "manifest.csv"], (0, 0), 0, longest_side=32)
    assert places[0].shape == (24, 32, 3)


# ---- appearance


def test_every_single_change_gives_an_image(folder):
    image = np.float32(textured(0, 48, 64)) / 255
    for name in appearance.Settings.model_fields:
        for seed in range(4):
            how = parse(appearance.Settings, {**CALM, "unchanged": 0.0, name: 1.0})
            seen = appearance.changed(image, how, np.random.default_rng(seed), textured(1, 30, 40))
            assert seen.shape == image.shape and seen.dtype == np.float32 and np.isfinite(seen).all()
            assert np.array_equal(seen, image) == (name in ("unchanged", "overlay", "jpeg")), name
            assert appearance.to_image(seen).dtype == np.uint8


def test_nights_are_darker_than_days():
    how = parse(appearance.Settings, {**CALM, "night": 1.0})
    image = np.full((48, 64, 3), 0.6, np.float32)
    nights = [appearance.changed(image, how, np.random.default_rng(seed)).clip(0, 1).mean() for seed in range(20)]
    assert np.median(nights) < 0.4


@pytest.mark.parametrize("size", [(64, 48), (48, 64), (40, 40)])
def test_views_have_the_size_of_the_batch(size):
    for wide in (False, True):
        seen = appearance.view(textured(0, 60, 80), size, np.random.default_rng(0), wide=wide)
        assert seen.shape == (size[1], size[0], 3) and 0 <= seen.min() <= seen.max() <= 1


def test_overlays_of_every_kind_cover_some_of_the_image_and_leave_most():
    image = np.full((96, 128, 3), 77, np.uint8)
    for kind in sorted(set(appearance.OVERLAYS)):
        made = appearance.Overlay(np.random.default_rng(5))
        made.kind = kind
        changed = (made.drawn(image, np.random.default_rng(0)) != image).any(axis=2).mean()
        assert 0.001 < changed < 0.6, kind
    assert (image == 77).all()


# ---- the loss


def test_memory_brings_negatives_of_earlier_batches():
    vectors, labels = torch.eye(4)[[0, 0, 1, 1]], torch.tensor([0, 0, 1, 1])
    loss = MetricLoss("contrastive", "all", memory=2)
    _, first = loss(vectors, labels, labels)
    _, second = loss(torch.eye(4)[[2, 2]], torch.tensor([2, 2]), torch.tensor([2, 2]))
    assert first == 8 and second == 4
    _, third = loss(torch.eye(4)[[3, 3]], torch.tensor([3, 3]), torch.tensor([2, 2]))
    assert third == 0  # of one group with all that is remembered


def test_an_image_is_no_positive_of_itself():
    loss = MetricLoss("contrastive", "multi_similarity", memory=4)
    vectors = torch.nn.functional.normalize(torch.tensor([[1.0, 0.2], [1.0, -0.2], [0.9, 0.3], [0.9, -0.3]]), dim=1)
    one, positive, _, _ = loss._pairs(*[(vectors, torch.tensor([0, 0, 1, 1]), torch.arange(4))] * 2)
    assert len(one) and (one != positive).all()


# ---- the task


def test_settings_that_make_no_sense(folder, task):
    with pytest.raises(ConfigError, match="unknown loss 'guess'"):
        settings(folder, loss="guess")
    with pytest.raises(ConfigError, match="multiple of 16"):
        settings(folder, sizes=((60, 48),))
    with pytest.raises(ConfigError, match="at least two places"):
        task.batch(3, randomness(0))
    with pytest.raises(ConfigError, match=r"task.dim = 40: the whitening is fitted on \d+ images"):
        place_descriptor.build(settings(folder, dim=40))


def test_training_starts_from_a_descriptor_that_tells_places_apart(task):
    with torch.inference_mode():
        figures = task.validate(task.model, CPU)
    assert next(iter(figures)) == "recall_at_1"
    assert figures["recall_at_1_plain"] == 1.0


def test_a_batch_is_a_function_of_its_numbers(task):
    for one, other in zip(task.batch(8, randomness(0, 3)), task.batch(8, randomness(0, 3)), strict=True):
        assert torch.equal(one, other)
    assert not torch.equal(task.batch(8, randomness(0, 3)).images, task.batch(8, randomness(0, 4)).images)


def test_a_batch_has_views_of_places_and_of_single_images(task):
    batch = task.batch(12, randomness(0, 1))
    assert batch.images.shape == (12, 3, 48, 64) and batch.images.dtype == torch.uint8
    _, counts = batch.labels.unique(return_counts=True)
    assert (counts == 2).all()
    held = {int(task.places.labels[rows[0]]) for rows in task.places.held_places}
    assert not held & set((batch.labels // 2).tolist())


def test_places_that_look_alike_are_of_other_groups(task):
    groups = [task.places.groups[rows[0]] for rows in task.places.places]
    for i, near in enumerate(task.alike):
        assert len(near) and all(groups[int(j)] != groups[i] for j in near)


def test_parts_have_their_own_rates_and_frozen_blocks_none(folder, tmp_path):
    made = place_descriptor.build(settings(folder))
    rates = [group["rate"] for group in made.parameter_groups()]
    assert rates == pytest.approx([0.5 * 0.85, 0.5, 10.0, 1.0, 1.0, 0.25])
    before = {key: value.clone() for key, value in made.model.state_dict().items()}
    how = loop.Settings(steps=2, batch_size=8, warmup_steps=0, learning_rate=1e-2, ema=0.0)
    loop.train(made, how, tmp_path, CPU)
    after = made.model.state_dict()
    still = {key for key, value in before.items() if torch.equal(value, after[key])}
    assert {key for key in before if "stem" in key or "blocks.0." in key} == still


def test_one_batch_is_learned(folder, tmp_path):
    how = loop.Settings(
        steps=12, batch_size=8, learning_rate=5e-5, warmup_steps=0, ema=0.0, overfit=1, log_every=1, validate_every=12
    )
    made = tasks.build(tasks.Settings(task=settings(folder, hard=0.0, miner="all", changes=CALM, memory=0)))
    loop.train(made, how, tmp_path, CPU)
    rows = [line.split(",") for line in (tmp_path / "train.csv").read_text().splitlines()]
    losses = [float(row[rows[0].index("loss")]) for row in rows[1:]]
    assert losses[-1] < losses[0]


def test_exported_weights_describe_as_the_model_does(folder, task, tmp_path):
    task.export(task.model, tmp_path / "mine.safetensors")
    assert load_file(tmp_path / "mine.safetensors")["projection.weight"].dtype == torch.float16
    loaded = place.build(place.Settings(weights=str(tmp_path / "mine.safetensors"), longest_side=64), CPU)
    image = task.places[0]
    with torch.inference_mode():
        seen = place.LEVELS.normalise(loaded.preprocess(image)[None])
        torch.testing.assert_close(loaded.describe([loaded.preprocess(image)]), as_saved(task.model)(seen))
    again = place_descriptor.build(settings(folder, start=tmp_path / "mine.safetensors"))
    assert torch.equal(again.model.projection.weight.half(), task.model.projection.weight.half())
