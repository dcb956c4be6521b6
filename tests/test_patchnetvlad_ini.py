"""The .ini files of Patch-NetVLAD's users, whose layout is that of release 0.1.8 of the package patchnetvlad."""

from __future__ import annotations

from pathlib import Path

import pytest

from vpr.cli.common import config_path
from vpr.cli.patchnetvlad_ini import given_predictions, run_overrides, training_overrides
from vpr.config import load
from vpr.core import ConfigError
from vpr.settings import Settings
from vpr.training.netvlad_recipe import Settings as Recipe

EXTRACT = {"batchsize": "5", "cachebatchsize": "5", "imageresizew": "640", "imageresizeh": "480"}
MATCH = {
    "n_values_all": "1,5,10,20,50,100",
    "dataset_name": "NA",
    "pred_input_path": "None",
    "imageresizew": "640",
    "imageresizeh": "480",
}
GLOBAL = {"resumepath": "./pretrained_models/mapillary_WPCA", "threads": "0", "ngpu": "1"}


def ini(path: Path, **sections: dict[str, str]) -> Path:
    lines = [f"[{name}]\n" + "\n".join(f"{k} = {v}" for k, v in keys.items()) for name, keys in sections.items()]
    path.write_text("\n\n".join(lines) + "\n")
    return path


def published(path: Path, matcher: str, weights: str, components: int, sizes: str, strides: str) -> Path:
    return ini(
        path,
        feature_extract=EXTRACT,
        feature_match={**MATCH, "matcher": matcher, "patchweights2use": weights},
        global_params={
            **GLOBAL,
            "pooling": "patchnetvlad",
            "num_pcs": str(components),
            "patch_sizes": sizes,
            "strides": strides,
        },
    )


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("performance", ("RANSAC", "0.45,0.15,0.4", 4096, "2,5,8", "1,1,1")),
        ("speed", ("spatialApproximator", "1", 512, "5", "1")),
        ("storage", ("spatialApproximator", "1", 128, "5", "1")),
    ],
)
def test_the_published_files_are_the_configs_of_that_name(
    name: str, content: tuple[str, str, int, str, str], tmp_path: Path
) -> None:
    found = load(Settings, None, run_overrides(published(tmp_path / f"{name}.ini", *content)))
    shipped = load(Settings, config_path(f"patch_netvlad_{name}"))
    same = {"global_descriptor", "rerank", "output", "shortlist", "evaluation"}
    assert found.model_dump(include=same) == shipped.model_dump(include=same)
    assert found.store.batch_size == 5


def test_netvlad_alone(tmp_path: Path) -> None:
    path = ini(
        tmp_path / "n.ini", feature_extract=EXTRACT, global_params={**GLOBAL, "pooling": "netvlad", "num_pcs": "512"}
    )
    settings = load(Settings, None, run_overrides(path))
    assert (settings.global_descriptor.method, settings.rerank.k) == ("netvlad", 0)
    assert settings.global_descriptor.weights == "patch_netvlad_mapillary_512"


def test_a_checkpoint_of_ones_own(tmp_path: Path) -> None:
    (tmp_path / "mine512.pth.tar").write_bytes(b"")
    keys = {**GLOBAL, "resumepath": str(tmp_path / "mine"), "num_pcs": "512", "pooling": "netvlad"}
    path = ini(tmp_path / "n.ini", feature_extract=EXTRACT, global_params=keys)
    assert f"global_descriptor.weights={tmp_path}/mine512.pth.tar" in run_overrides(path)


def test_training(tmp_path: Path) -> None:
    train = {
        "batchsize": "4", "cachebatchsize": "20", "optim": "SGD", "seed": "123", "lr": "0.0001", "lrstep": "5",
        "lrgamma": "0.5", "weightdecay": "0.001", "momentum": "0.9", "patience": "10", "evalevery": "1",
        "margin": "0.1", "num_clusters": "16", "includepanos": "False", "nNeg": "5", "imageresizew": "640",
        "imageresizeh": "480",
    }  # fmt: skip
    path = ini(tmp_path / "train.ini", train=train, global_params={**GLOBAL, "pooling": "netvlad", "num_pcs": "4096"})
    assert load(Recipe, None, training_overrides(path)) == Recipe()
    path = ini(tmp_path / "train.ini", train={**train, "margin": "0.2"}, global_params=GLOBAL)
    assert load(Recipe, None, training_overrides(path)).margin == 0.2


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"feature_match": {"mather": "RANSAC"}}, "unknown key .* .did you mean 'feature_match.matcher'"),
        ({"feature_match": {"matcher": "guess"}}, "expected RANSAC or spatialApproximator"),
    ],
)  # fmt: skip
def test_mistakes_are_named(change: dict[str, dict[str, str]], sentence: str, tmp_path: Path) -> None:
    path = ini(tmp_path / "x.ini", **change, global_params=GLOBAL)
    with pytest.raises(ConfigError, match=sentence):
        run_overrides(path)
    (tmp_path / "y.ini").write_text("no section")
    with pytest.raises(ConfigError, match=r"not a readable \.ini file"):
        run_overrides(tmp_path / "y.ini")


def test_a_shortlist_to_rerank(tmp_path: Path) -> None:
    assert given_predictions(ini(tmp_path / "x.ini", feature_match=MATCH, global_params=GLOBAL)) is None
    path = ini(tmp_path / "y.ini", feature_match={**MATCH, "pred_input_path": "p.npy"}, global_params=GLOBAL)
    assert given_predictions(path) == Path("p.npy")
