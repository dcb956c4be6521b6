"""A descriptor of the image joined with one of its local features: similarities are the weighted sum of both."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from vpr.build import build
from vpr.config import config_path, load
from vpr.core import ConfigError
from vpr.datasets import read_pair
from vpr.descriptors import describe
from vpr.features.feature_set import FeatureFolders
from vpr.pipeline import extract, run
from vpr.runtime.timing import Clock
from vpr.settings import Settings

Folders = tuple[Path, Path]
JOINED = [
    "global_descriptor.method=thumbnail",
    "local_features.method=rootsift",
    "joined.weight=0.3",
    "joined.descriptor.clusters=4",
    "rerank.k=0",
]


def similarities(folders: Folders, out: Path, overrides: list[str]) -> np.ndarray:
    dataset = read_pair(*folders)
    engine = build(load(Settings, None, overrides))
    features = extract(dataset, engine, lambda role: FeatureFolders.under(out / role), Clock())
    found = describe(features, engine, out / "work")
    return found.queries.matrix() @ found.database.matrix().T


def test_the_similarity_is_the_weighted_sum(small_city: Folders, tmp_path: Path) -> None:
    both = similarities(small_city, tmp_path / "both", JOINED)
    image = similarities(small_city, tmp_path / "image", [JOINED[0], "rerank.k=0"])
    local = similarities(
        small_city,
        tmp_path / "local",
        [
            "local_features.method=rootsift",
            "global_descriptor.method=vlad",
            "global_descriptor.clusters=4",
            "rerank.k=0",
        ],
    )
    assert np.allclose(both, 0.7 * image + 0.3 * local, atol=2e-3)
    assert not np.allclose(both, 0.5 * image + 0.5 * local, atol=2e-2)


def test_a_run_uses_it(small_city: Folders, tmp_path: Path) -> None:
    assert run(read_pair(*small_city), load(Settings, None, JOINED), tmp_path, {}).summary is not None
    sizes = json.loads((tmp_path / "run.json").read_text())["bytes_per_image"]
    assert set(sizes) == {"local features", "global descriptors"}


def test_two_descriptors_of_local_features_are_not_joined() -> None:
    with pytest.raises(ConfigError, match="is made of local features itself; switch it off with joined = false"):
        load(Settings, None, ["joined.weight=0.5", "global_descriptor.method=vlad"])


def test_the_default_is_the_config_superpoint_place() -> None:
    default = load(Settings, None, [])
    assert default == load(Settings, config_path("superpoint_place"), [])
    weights = default.rerank.model_dump(include={"retrieval_weight", "evidence_weight"})
    assert weights == {"retrieval_weight": 1.7, "evidence_weight": 2.4}
    kept = load(Settings, None, ["rerank.k=7", "rerank.retrieval_weight=0.2"]).rerank.model_dump()
    assert (kept["k"], kept["retrieval_weight"], kept["evidence_weight"]) == (7, 0.2, 2.4)
    alone = load(Settings, None, ["global_descriptor.method=vlad"]).rerank.model_dump()
    assert (alone["retrieval_weight"], alone["evidence_weight"]) == (0.5, 0.0)


def test_the_default_is_joined_and_a_chosen_descriptor_is_not() -> None:
    default = load(Settings, None)
    assert default.global_descriptor.method == "place" and default.joined is not None
    assert default == load(Settings, config_path("superpoint_place")) == Settings()
    assert load(Settings, None, ["global_descriptor.longest_side=256"]).joined == default.joined
    for chosen in (["global_descriptor.method=place"], ["global_descriptor.method=vlad"], ["joined=false"]):
        assert load(Settings, None, chosen).joined is None
    assert load(Settings, None, ["global_descriptor.method=thumbnail", "joined.weight=0.2"]).joined is not None
