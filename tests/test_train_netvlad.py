"""NetVLAD's published training, on a small rendered city written as its users have their data."""

import csv

import numpy as np
import pytest
import torch
from netvlad_weights import random_state
from published import CPU
from scipy.io import savemat
from test_hostile import call

from vpr.core import DataError, ImageSet
from vpr.demo_city import build_city, light_named, plan_shots, render
from vpr.global_descriptors import netvlad
from vpr.global_descriptors.netvlad import WIDTH, NetVladNetwork
from vpr.training import netvlad_recipe
from vpr.training.netvlad_data import read_mapillary, read_pittsburgh
from vpr.training.netvlad_network import set_clusters, train_last
from vpr.training.netvlad_pca import whitened_path
from vpr.training.triplets import Subset, TripletSet, weights_of
from vpr.weights import WeightsError, read_checkpoint
from vpr.weights.recognition import recognise

SIZE = (48, 32)
SMALL = ["width=48", "height=32", "clusters=3", 'backbone="vgg.pth"', "cached_queries=4", "dim=4", "learning_rate=1e-3"]
SETS = [word for setting in SMALL for word in ("--set", setting)]


def unit(*rows):
    array = np.array(rows, np.float32)
    return array / np.linalg.norm(array, axis=1, keepdims=True)


def at(*easts):
    return ImageSet("somewhere", tuple(f"{i}.jpg" for i in range(len(easts))), np.array([(x, 0.0) for x in easts]))


# ---- mining


def test_triplets_by_hand():
    """Database at 0, 5, 20, 100, 200 m; the first query at 1 m, the second at 99 m."""
    triplets = TripletSet(at(1, 99), at(0, 5, 20, 100, 200), np.ones(2))
    assert [rows.tolist() for rows in triplets.positives] == [[0, 1], [3]]
    subset = Subset(np.array([0, 1]), np.arange(5))
    asked = unit([1, 0], [0, 1])
    found = unit([1, 0.9], [1, 0.5], [1, 0.1], [1, 0.6], [1, 3])
    first, second = triplets.mine(subset, asked, found, margin=0.3, most=5)
    # The nearer of its two positives; 20 m away is no negative, however alike; the last is too far off to matter.
    assert (first.query, first.positive, first.negatives.tolist()) == (0, 1, [3])
    # Its only positive is the fourth; of the others those that are nearer, or farther by less than the margin.
    assert (second.query, second.positive, second.negatives.tolist()) == (1, 3, [4, 0, 1])
    (alone,) = triplets.mine(subset, asked, found, margin=0.3, most=1)[1:]
    assert alone.negatives.tolist() == [4]
    assert len(triplets.mine(subset, asked, unit([1, 1], [1, 0], [1, 1], [0, 1], [-1, 0]), 0.3, 5)) == 0


def test_an_epoch_draws_what_is_rare_more_often():
    triplets = TripletSet(at(*range(100), 5000), at(*range(100)), weights_of([[i < 10 for i in range(101)]], 101))
    random = np.random.default_rng(0)
    subsets = list(triplets.subsets(40, 7, random))
    assert sum(len(each.queries) for each in subsets) == 100  # the last query has no positive
    assert all(len(each.queries) <= 40 for each in subsets)
    drawn = np.concatenate([each.queries for each in subsets])
    assert 100 not in drawn
    assert (drawn < 10).sum() > 35  # (1 + 101 / 10) * 10 of that + 90
    for subset in subsets:
        assert (np.diff(subset.candidates) > 0).all()
        assert all(np.isin(triplets.positives[row], subset.candidates).all() for row in subset.queries)
    assert np.allclose(weights_of([[True, False], [False, False]], 2), [3, 1])
    with pytest.raises(DataError, match="none of 1 queries has a database image within 10 m"):
        TripletSet(at(500), at(0), np.ones(1))


# ---- clusters


def test_the_second_nearest_cluster_has_a_hundredth():
    network = NetVladNetwork(2, None)
    centroids = np.zeros((2, WIDTH), np.float32)
    centroids[0, 0] = centroids[1, 1] = 2.0
    feature = np.zeros((1, WIDTH), np.float32)
    feature[0, :2] = 0.8, 0.6
    set_clusters(network, centroids, feature)
    _, shares = network.pool.assign(torch.from_numpy(feature)[:, :, None, None])
    torch.testing.assert_close(shares.flatten()[0] / shares.flatten()[1], torch.tensor(100.0), rtol=1e-4, atol=0)
    assert torch.equal(network.pool.centroids, torch.from_numpy(centroids))


def test_only_the_end_of_vgg16_learns():
    network = NetVladNetwork(2, None)
    train_last(network, 5)
    learning = {name for name, parameter in network.named_parameters() if parameter.requires_grad}
    ends = {f"encoder.{place}.{part}" for place in (24, 26, 28) for part in ("weight", "bias")}
    assert learning == {*ends, "pool.centroids", "pool.conv.weight"}


# ---- the folders, the commands


@pytest.fixture(scope="module")
def shots():
    city = build_city(4, 0)
    taken = plan_shots(city, SIZE)
    return [(shot, render(city, shot.camera, light_named(shot.light, 0), shot.seed, None).image) for shot in taken]


def side_of(shots, role):
    return [(shot, image) for shot, image in shots if shot.role == role]


def write_jpeg(path, image):
    import cv2

    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), image[..., ::-1])


@pytest.fixture(scope="module")
def mapillary(shots, tmp_path_factory):
    """The city as London to learn from and as cph to measure on."""
    root = tmp_path_factory.mktemp("msls")
    for city in ("london", "cph"):
        for role, name in (("database", "database"), ("queries", "query")):
            folder = root / "train_val" / city / name
            rows = [(f"{city}{role}{i}", *each) for i, each in enumerate(side_of(shots, role))]
            for key, _, image in rows:
                write_jpeg(folder / "images" / f"{key}.jpg", image)
            views = ["Sideways" if i % 3 == 0 else "Forward" for i in range(len(rows))]
            tables = {
                "postprocessed": [("key", "easting", "northing", "night", "view_direction")]
                + [(k, *s.position, s.light == "night", v) for (k, s, _), v in zip(rows, views, strict=True)],
                "raw": [("key", "pano"), *((key, False) for key, _, _ in rows)],
                "subtask_index": [("key", "all"), *((key, True) for key, _, _ in rows)],
            }
            for table, lines in tables.items():
                with (folder / f"{table}.csv").open("w", newline="") as file:
                    csv.writer(file).writerows(lines)
    return root


@pytest.fixture(scope="module")
def pittsburgh(shots, tmp_path_factory):
    root = tmp_path_factory.mktemp("pitts")
    sides = {role: side_of(shots, role) for role in ("database", "queries")}
    names = {role: [f"{role}/{i}.jpg" for i in range(len(side))] for role, side in sides.items()}
    for role, side in sides.items():
        for name, (_, image) in zip(names[role], side, strict=True):
            write_jpeg((root / "queries_real" if role == "queries" else root) / name, image)
    utm = {role: np.array([shot.position for shot, _ in side]).T for role, side in sides.items()}
    (root / "datasets").mkdir()
    for split in ("train", "val"):
        fields = {
            "whichSet": split,
            "dbImageFns": np.array(names["database"], dtype=object)[:, None],
            "utmDb": utm["database"],
            "qImageFns": np.array(names["queries"], dtype=object)[:, None],
            "utmQ": utm["queries"],
            "numImages": float(len(names["database"])),
            "numQueries": float(len(names["queries"])),
            "posDistThr": 25.0,
            "posDistSqThr": 625.0,
            "nonTrivPosDistSqThr": 100.0,
        }
        savemat(root / "datasets" / f"pitts30k_{split}.mat", {"dbStruct": fields})
    return root


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with random weights of VGG16, where commands run."""
    state = {key: value for key, value in random_state(2, None).items() if key.startswith("encoder.")}
    torch.save(state, tmp_path / "vgg.pth")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_both_layouts_say_the_same(mapillary, pittsburgh):
    one, other = read_mapillary(mapillary), read_pittsburgh(pittsburgh)
    assert len(one.training.database) == len(other.training.database) == 16
    one_set, other_set = (TripletSet(d.training.queries, d.training.database, d.weights) for d in (one, other))
    for mine, theirs in zip(one_set.positives, other_set.positives, strict=True):
        assert mine.tolist() == theirs.tolist()
    assert (other.weights == 1).all()
    night, sideways = 2, -(-len(one.training.queries) // 3)
    assert one.weights.min() == 1 and one.weights.max() > len(one.training.queries) / max(night, sideways)
    with pytest.raises(DataError, match="none of the cities trondheim"):
        read_mapillary(pittsburgh)
    with pytest.raises(DataError, match=r"one file \*_train.mat"):
        read_pittsburgh(mapillary)


def test_from_images_to_a_whitened_checkpoint(mapillary, here, capsys):
    flags = ["--dataset_root_dir", str(mapillary), "--nocuda", "--threads", "2"]
    call(["train-netvlad", *flags, "--save_path", "runs", "--identifier", "mine", "--nEpochs", "1", *SETS])
    assert "Best recall@5" in capsys.readouterr().out
    out = here / "runs" / "mine"
    saved = torch.load(out / "checkpoint.pth.tar", weights_only=True)
    assert {"epoch", "state_dict", "recalls", "best_score", "not_improved", "optimizer", "parallel"} <= saved.keys()
    assert saved["epoch"] == 1 and set(saved["recalls"]) == {1, 5, 10, 20, 50, 100}
    assert saved["recalls"][100] > 0.5
    assert (out / "centroids" / "vgg16_mapillary_3.safetensors").exists()
    assert recognise(read_checkpoint(out / "model_best.pth.tar")).layout.name == "NetVLAD, not whitened"

    call(["pca", *flags, "--resume_path", str(out / "model_best.pth.tar"), "--dataset_choice", "mapillary", *SETS])
    path = out / "model_best_WPCA4.pth.tar"
    assert torch.load(path, weights_only=True)["num_pcs"] == 4
    method = netvlad.build(netvlad.Settings(weights=str(path), width=48, height=32), CPU)
    assert method.dim == 4
    training = read_mapillary(mapillary).training.database
    picture = method.preprocess(netvlad_picture(training))
    vector = method.describe([picture])
    torch.testing.assert_close(vector.norm(dim=1), torch.ones(1))


def netvlad_picture(images):
    from vpr.images import read_image

    return read_image(images.path(0), "rgb")


def test_the_published_script_is_called_as_ever(pittsburgh, here, monkeypatch, capsys):
    from vpr import cli

    words = ["train.py", "--dataset_root_dir", str(pittsburgh), "--trainset", "pitts", "--nocuda", "--nEpochs", "1"]
    monkeypatch.setattr("sys.argv", [*words, "--identifier", "p", "--save_path", "runs", *SETS])
    with pytest.raises(SystemExit) as ended:
        cli.train()
    assert not ended.value.code
    assert "Best recall@5" in capsys.readouterr().out
    assert (here / "runs" / "p" / "centroids" / "vgg16_pitts_3.safetensors").exists()


def test_a_start_that_fails_leaves_no_settings_behind(pittsburgh, here, capsys):
    flags = ["--dataset_root_dir", str(pittsburgh), "--trainset", "pitts", "--nocuda", "--save_path", "runs"]
    with pytest.raises(SystemExit):
        call(["train-netvlad", *flags, *SETS, "--set", "backbone=absent.pth"])
    assert "absent.pth: no such file" in capsys.readouterr().err
    assert not (here / "runs").exists()


def test_an_interrupted_run_ends_as_an_uninterrupted_one(pittsburgh, here, monkeypatch):
    def train(name, epochs):
        flags = ["--dataset_root_dir", str(pittsburgh), "--trainset", "pitts", "--nocuda", "--save_path", "runs"]
        call(["train-netvlad", *flags, "--identifier", name, "--nEpochs", str(epochs), *SETS])
        return torch.load(here / "runs" / name / "checkpoint.pth.tar", weights_only=True)

    whole = train("whole", 2)
    learn, calls = netvlad_recipe.Recipe._learn, []

    def killed(self, *arguments):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        learn(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(netvlad_recipe.Recipe, "_learn", killed)
        with pytest.raises(BaseException):  # noqa: B017 - however the command line reports it
            train("cut", 2)
    halfway = torch.load(here / "runs" / "cut" / "checkpoint.pth.tar", weights_only=True)
    assert (halfway["epoch"], halfway["subset"]) != (2, 0)
    cut = train("cut", 2)
    assert cut["recalls"] == whole["recalls"] and cut["steps"] == whole["steps"]
    for key, value in whole["state_dict"].items():
        assert torch.equal(cut["state_dict"][key], value), key


def test_weights_without_vgg16_are_refused(pittsburgh, here):
    torch.save({"conv.weight": torch.zeros(3)}, here / "vgg.pth")
    from vpr.training.netvlad_network import fresh_network

    with pytest.raises(WeightsError, match="holds no VGG16"):
        fresh_network(2, "vgg.pth")


def test_the_trained_network_is_the_one_in_use():
    network = NetVladNetwork(2, None)
    network.load_state_dict(random_state(2, None))
    images = torch.rand(2, 3, 32, 48)
    unit_, shares = network.pool.assign(network.encoder(images))
    torch.testing.assert_close(network(images), network.flatten(network.pool(unit_, shares)))
    assert whitened_path(netvlad_recipe.Path("a/x.pth.tar"), 8).name == "x_WPCA8.pth.tar"
