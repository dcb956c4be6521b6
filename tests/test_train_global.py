import numpy as np
import pytest
import torch
from conftest import textured, write_picture
from published import CPU, randomise
from safetensors.torch import load_file, save_file

from vpr.config import parse
from vpr.core import ConfigError, DataError
from vpr.demo_city.places import write_places
from vpr.global_descriptors import superpoint_global
from vpr.global_descriptors.aggregation import AGGREGATIONS
from vpr.images import read_image
from vpr.local_features.superpoint_network import SuperPointNetwork
from vpr.training import global_descriptor, homographies, loop, photometric, tasks
from vpr.training.export import as_saved
from vpr.training.metric_learning import LOSSES, MINERS, MetricLoss
from vpr.training.places import Places
from vpr.training.randomness import randomness

SIZE = (64, 48)
TINY = {"widths": (8, 8, 12, 16), "head": (16, 16), "clusters": 4, "cluster_width": 6, "raw_dim": 8, "size": SIZE}
CALM = {
    "homography": {"patch": 1.0, "perspective": 0.0, "scaling": 0.0, "rotation_deg": 0.0, "translation": 0.0},
    "crop": {"patch": 0.9, "perspective": 0.05, "scaling": 0.0, "rotation_deg": 0.0},
    "light": {"chance": 0.0, "night": 0.0},
}


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    """Six places with four shifted views each, and ten pictures that stand alone, in two groups."""
    folder = tmp_path_factory.mktemp("places")
    lines = ["file,place,group,licence"]
    for place in range(6):
        wide = textured(place, 60, 80)
        for view in range(4):
            write_picture(folder / f"p{place}_{view}.png", wide[3 * view : 3 * view + 48, 4 * view : 4 * view + 64])
            lines.append(f"p{place}_{view}.png,place {place},,MIT")
    for single in range(10):
        write_picture(folder / f"s{single}.png", textured(100 + single, 48, 64))
        lines.append(f"s{single}.png,,group {single // 5},MIT")
    (folder / "manifest.csv").write_text("\n".join(lines) + "\n")
    return folder / "manifest.csv"


def settings(manifest, **changes):
    given = {"manifest": manifest, "encoder": "tuned", "dim": 0, **TINY, **changes}
    return parse(global_descriptor.Settings, given)


def task(manifest, **changes):
    torch.manual_seed(0)
    return global_descriptor.build(settings(manifest, **changes))


# ---- places


def test_what_a_manifest_says(manifest):
    places = Places([manifest], SIZE, held_out=0.2)
    assert len(places) == 34
    assert len(places.places) == 5 and len(places.held_places) == 1
    assert len(places.single) == 8 and len(places.held_single) == 2
    for rows in [*places.places, *places.held_places]:
        assert len({places.paths[row].name[:2] for row in rows}) == 1
        assert len(set(places.labels[rows])) == 1
    assert len(set(places.labels)) == 16
    alone = np.concatenate([places.single, places.held_single])
    assert len(set(places.groups[alone])) == 2
    assert len(set(places.groups)) == 6 + 2  # a place without a group is one of its own
    assert places[0].shape == (48, 64)


def test_the_same_name_in_two_manifests_is_two_places(manifest):
    places = Places([manifest, manifest], SIZE, held_out=0)
    assert len(places.places) == 12
    assert len(set(places.labels)) == 32


def test_a_draw_has_so_many_views_of_so_many_places(manifest):
    places = Places([manifest], SIZE, held_out=0.2)
    rows = places.draw(4, 3, 0.5, np.random.default_rng(0)).reshape(4, 3)
    assert all(len(set(places.labels[each])) == 1 for each in rows)
    assert len(set(places.labels[rows[:, 0]])) == 4
    alone = np.isin(rows[:, 0], places.single)
    assert alone.sum() == 2
    assert all(len(set(each)) == 1 for each in rows[alone])
    assert all(len(set(each)) == 3 for each in rows[~alone])
    assert not np.isin(rows, np.concatenate([places.held_single, *places.held_places])).any()
    assert not np.isin(places.draw(5, 2, 0, np.random.default_rng(0)), places.single).any()


def test_manifests_that_hold_too_little_are_refused(tmp_path, manifest):
    with pytest.raises(DataError, match="no csv file: fewer than two places"):
        Places([], SIZE, 0.1)
    (tmp_path / "m.csv").write_text("picture,place\na.png,1\n")
    with pytest.raises(DataError, match="no column 'image'"):
        Places([tmp_path / "m.csv"], SIZE, 0.1)


def test_places_of_the_city_are_rendered_once(tmp_path):
    path = write_places(tmp_path / "city", places=3, views=4, size=(48, 36))
    lines = path.read_text().splitlines()
    assert lines[0] == "image,place,light" and len(lines) == 13
    assert [line.split(",")[1] for line in lines[1:5]] == ["0-0"] * 4
    assert len({line.split(",")[2] for line in lines[1:5]}) == 4  # every light of each place
    pictures = sorted((tmp_path / "city" / "database").iterdir())
    assert read_image(pictures[0], "rgb").shape == (36, 48, 3)
    kept, lost = pictures[0].stat().st_mtime_ns, pictures[5].read_bytes()
    pictures[5].unlink()
    write_places(tmp_path / "city", places=3, views=4, size=(48, 36))
    assert pictures[5].read_bytes() == lost
    assert pictures[0].stat().st_mtime_ns == kept
    with pytest.raises(DataError, match="other arguments"):
        write_places(tmp_path / "city", places=3, views=5, size=(48, 36))


# ---- losses


def test_what_may_be_one_place_is_no_pair():
    vectors = torch.nn.functional.normalize(torch.tensor([[1.0, 0.0], [1, 0.1], [1, 0.2], [0, 1]]), dim=1)
    labels = torch.tensor([0, 0, 1, 2])
    loss = MetricLoss("contrastive", "all")
    apart, negatives = loss(vectors, labels, torch.tensor([0, 1, 2, 3]))
    assert negatives == 2 * 5
    one_group, fewer = loss(vectors, labels, torch.tensor([0, 4, 4, 3]))
    assert fewer == 2 * 4  # the second and the third are of one group
    assert one_group < apart


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("miner", MINERS)
def test_every_loss_prefers_places_that_are_apart(loss, miner):
    random = torch.Generator().manual_seed(0)
    centres = torch.eye(4).repeat_interleave(3, 0)
    labels = torch.arange(4).repeat_interleave(3)
    mixed = torch.nn.functional.normalize(torch.rand(12, 4, generator=random), dim=1)
    criterion = MetricLoss(loss, miner)
    assert criterion(centres, labels, torch.arange(12))[0] < criterion(mixed, labels, torch.arange(12))[0]


# ---- the task


def test_settings_that_make_no_sense(manifest):
    for change, message in (
        ({"loss": "guess"}, "unknown loss 'guess'; known: circle"),
        ({"miner": "guess"}, "unknown miner"),
        ({"aggregation": "sum"}, "unknown aggregation 'sum'; known: gem, netvlad, transport"),
        ({"encoder": "frozen"}, "needs start"),
    ):
        with pytest.raises(ConfigError, match=message):
            settings(manifest, **change)
    with pytest.raises(ConfigError, match="gives only 32 dimensions"):
        task(manifest, dim=33)
    with pytest.raises(ConfigError, match="at least two places"):
        task(manifest).batch(7, randomness(0))


def test_a_batch_is_a_function_of_its_numbers(manifest):
    made = task(manifest)
    for one, other in zip(made.batch(8, randomness(0, 3)), made.batch(8, randomness(0, 3)), strict=True):
        assert torch.equal(one, other)
    assert not torch.equal(made.batch(8, randomness(0, 3)).images, made.batch(8, randomness(0, 4)).images)


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_one_batch_is_learned(manifest, tmp_path, aggregation):
    how = loop.Settings(
        steps=60, batch_size=12, learning_rate=5e-3, warmup_steps=0, ema=0.0, overfit=1, log_every=1, validate_every=60
    )
    chosen = settings(manifest, aggregation=aggregation, views=3, **CALM)
    loop.train(tasks.build(tasks.Settings(task=chosen)), how, tmp_path, CPU)
    rows = [line.split(",") for line in (tmp_path / "train.csv").read_text().splitlines()]
    losses = [float(row[rows[0].index("loss")]) for row in rows[1:]]
    assert losses[-1] < 0.02 < losses[0]


def test_a_resumed_run_ends_as_an_uninterrupted_one(manifest, tmp_path):
    chosen = settings(manifest, dim=4, whitening_images=28)
    how = {"batch_size": 8, "warmup_steps": 0, "validate_every": 4, "checkpoint_every": 2, "schedule": "constant"}
    loop.train(tasks.build(tasks.Settings(task=chosen)), loop.Settings(steps=8, **how), tmp_path / "once", CPU)
    for steps in (4, 8):
        made = tasks.build(tasks.Settings(task=chosen))
        loop.train(made, loop.Settings(steps=steps, **how), tmp_path / "twice", CPU)
    once, twice = (torch.load(tmp_path / run / loop.CHECKPOINT, weights_only=True) for run in ("once", "twice"))
    for key, value in once["model"].items():
        assert torch.equal(value, twice["model"][key]), key
    assert (tmp_path / "once" / loop.BEST).read_bytes() == (tmp_path / "twice" / loop.BEST).read_bytes()


def test_a_frozen_backbone_stays_to_the_bit(manifest, tmp_path):
    start = randomise(SuperPointNetwork("open", (8, 8, 12, 16), 16, 24), gain=1.5)
    save_file(start.state_dict(), tmp_path / "superpoint.safetensors")  # float32, which half precision does not hold
    made = task(manifest, encoder="frozen", start=str(tmp_path / "superpoint.safetensors"))
    before = {key: value.clone() for key, value in made.model.state_dict().items()}
    how = loop.Settings(steps=3, batch_size=8, warmup_steps=0, ema=0.0)
    loop.train(made, how, tmp_path / "run", CPU)
    saved = load_file(tmp_path / "run" / loop.BEST)
    for key, value in start.state_dict().items():
        if key.startswith("backbone"):
            assert torch.equal(saved[f"encoder.{key}"], value)
    assert not torch.equal(saved["head.0.conv.weight"].float(), before["head.0.conv.weight"])
    assert saved["head.0.conv.weight"].dtype == torch.float16


def test_what_is_exported_is_what_was_validated(manifest, tmp_path):
    made = task(manifest, dim=5, whitening_images=28, held_out=0.2)
    randomise(made.model, gain=1.5)  # fresh weights describe all pictures nearly alike
    with torch.inference_mode():
        figures = made.validate(made.model, CPU)
    assert next(iter(figures)) == "recall_at_1"
    assert made.whitening is not None and made.whitening.dim == 5
    made.export(made.model, tmp_path / "mine.safetensors")
    loaded = superpoint_global.build(
        superpoint_global.Settings(weights=str(tmp_path / "mine.safetensors"), size=SIZE), CPU
    )
    assert loaded.dim == 5
    images = [torch.from_numpy(made.places[row])[None] for row in range(4)]
    with torch.inference_mode():
        raw = as_saved(made.model, global_descriptor.EXACT)(torch.stack(images).float() / 255).numpy()
    np.testing.assert_allclose(loaded.describe(images).numpy(), made.whitening.apply(raw), atol=2e-3)


def test_recall_counts_the_nearest_of_the_same_place(manifest):
    made = task(manifest, held_out=0.0)
    rows = np.array([0, 4, 24]), np.array([1, 5, 25, 26])  # two places, and single pictures of one group
    found = np.eye(4, dtype=np.float32)
    asked = found[[0, 0, 2]]
    asked[2] += 0.5 * found[0]
    # The third query is nearest to another of its group, which is passed over; its place is not there.
    assert made._right(asked, found, rows).tolist() == [True, False, False]
    assert made._right(found[[1, 1, 1]], found, rows).tolist() == [False, True, False]


def test_too_few_images_are_not_whitened(manifest, caplog):
    made = task(manifest, dim=16)
    made.model.eval()
    with torch.inference_mode():
        made.validate(made.model, CPU)
    assert made.whitening is None
    assert "too few for task.dim = 16, which takes 64" in caplog.text


def test_whitening_that_harms_can_be_left_out(manifest, monkeypatch):
    made = task(manifest, dim=5, whitening_images=28, held_out=0.2, whitening="if_better")
    randomise(made.model, gain=1.5)
    for white, kept in ((0.0, False), (1.0, True)):
        answers = iter([np.full(5, 0.5), np.full(5, white)])  # before and after whitening
        monkeypatch.setattr(made, "_right", lambda *_, answers=answers: next(answers))
        with torch.inference_mode():
            figures = made.validate(made.model, CPU)
        assert (made.whitening is not None) == kept
        assert figures["recall_at_1"] == max(0.5, white)


def test_light_and_warps_have_their_settings(manifest):
    chosen = settings(manifest, **CALM)
    assert isinstance(chosen.light, photometric.Settings) and chosen.light.chance == 0
    assert isinstance(chosen.crop, homographies.Settings) and chosen.crop.patch == 0.9
