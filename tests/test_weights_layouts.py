"""Telling what a file of weights is."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path

import pytest
import torch

from vpr.global_descriptors import GLOBAL_DESCRIPTORS, LOCAL_AGGREGATORS
from vpr.global_descriptors.mixvpr import MixNetwork
from vpr.global_descriptors.netvlad import NetVladNetwork
from vpr.global_descriptors.resnet import GemNetwork
from vpr.local_features import LOCAL_EXTRACTORS
from vpr.local_features.superpoint_network import SuperPointNetwork
from vpr.matchers import IMAGE_MATCHERS, MATCHERS
from vpr.matchers.gluestick_network import GlueStickNetwork
from vpr.matchers.imp_network import ImpNetwork
from vpr.matchers.lightglue_network import LightGlueNetwork
from vpr.matchers.superglue_network import SuperGlueNetwork
from vpr.weights.layouts import LAYOUTS, Layout
from vpr.weights.recognition import expand, recognise


def test_patterns() -> None:
    assert expand("a", {}) == ["a"]
    assert expand("conv{1..2}{a,b}.w", {}) == ["conv1a.w", "conv1b.w", "conv2a.w", "conv2b.w"]
    assert expand("l.{0..<layers}", {"layers": 2}) == ["l.0", "l.1"]
    assert expand("e.{1..<the modules/3}", {"the modules": 7}) == ["e.1", "e.4"]
    assert expand("l.{0..<layers}", {"layers": 0}) == []


def names_of(layout: Layout) -> set[str]:
    sizes = defaultdict(lambda: 2, exits=1)
    return {*layout.signature_keys, *(name for pattern in layout.keys for name in expand(pattern, sizes))}


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.name)
def test_every_layout_is_told_from_the_others(layout: Layout) -> None:
    names = names_of(layout)
    shape = (3, 4) if "orientation" in layout.name else (3, 3)  # that layout differs from LightGlue's by a shape
    found = recognise({name: torch.ones(shape) for name in names})
    assert found is not None and found.layout is layout and not found.missing and not found.unused
    if layout.keys:
        gone = sorted(names - set(layout.signature_keys))[:1]
        less = recognise({name: torch.ones(shape) for name in [*sorted(names - set(gone)), "surplus"]})
        assert less is not None and less.layout is layout and less.unused == {"surplus"}
        assert less.missing == set(gone)


def test_scalars_in_the_place_of_matrices_are_no_trouble() -> None:
    for layout in LAYOUTS:
        found = recognise({name: torch.tensor(1.0) for name in names_of(layout)})
        assert found is not None and (found.layout is layout or layout.condition)


def test_a_name_with_a_huge_number_is_not_counted_to() -> None:
    state = {"gnn.layers.0.attn.merge.weight", "final_proj.weight", "bin_score", "gnn.layers.999999999.x"}
    found = recognise({name: torch.ones(1) for name in state} | {f"gnn.layers.{'9' * 5000}.x": torch.ones(1)})
    assert found is not None and found.sizes["layers"] == 5


def test_unknown_tensors_are_nothing() -> None:
    assert recognise({"a": torch.ones(1)}) is None
    assert recognise({}) is None


GOLDEN = {
    "superpoint_v1": ("SuperPoint v1", {"descriptor": 256}),
    "superpoint_open": ("SuperPoint, open weights", {"descriptor": 256}),
    "superglue": ("SuperGlue", {"layers": 18, "descriptor": 256}),
    "lightglue": ("LightGlue, as first published", {"layers": 9, "descriptor": 256}),
    "netvlad_hloc": ("NetVLAD, MATLAB network", {"clusters": 64, "descriptor": 4096}),
    "imp": ("IMP or EIMP", {"layers": 30, "descriptor": 256}),
    "gluestick": ("GlueStick", {"layers": 18, "line layers": 9, "descriptor": 256}),
}


@pytest.mark.parametrize("name", GOLDEN)
def test_published_names(shared: Path, name: str) -> None:
    """The names that the published code gives its tensors."""
    shapes = json.loads((shared / "golden" / f"{name}.json").read_text())["shapes"]
    with torch.device("meta"):
        found = recognise({key: torch.empty(shape) for key, shape in shapes.get("IMP", shapes).items()})
    layout, sizes = GOLDEN[name]
    assert found is not None and found.layout.name == layout and sizes.items() <= found.sizes.items()
    assert not found.unused and found.missing <= {"meta.normalization.averageImage"}


NETWORKS = {
    "SuperPoint v1": lambda: SuperPointNetwork("v1", (4, 4, 8, 8), 16, 32),
    "SuperPoint, open weights": lambda: SuperPointNetwork("open", (4, 4, 8, 8), 16, 32),
    "SuperGlue": lambda: SuperGlueNetwork((8, 32), layers=4),
    "GlueStick": lambda: GlueStickNetwork((8, 32), layers=4),
    "IMP or EIMP": lambda: ImpNetwork((8, 32), iterations=9),
    "LightGlue": lambda: LightGlueNetwork(input_dim=32, dim=64, layers=3),
    "NetVLAD, not whitened": lambda: NetVladNetwork(4, None),
    "NetVLAD with PCA whitening, as of Patch-NetVLAD": lambda: NetVladNetwork(4, 32),
    "CosPlace or EigenPlaces, ResNet": lambda: GemNetwork("resnet18", 8, 512, 32),
    "CosPlace or EigenPlaces, ResNet with bottlenecks": lambda: GemNetwork("resnet101", 8, 2048, 32),
    "CosPlace or EigenPlaces, VGG16": lambda: GemNetwork("vgg16", 29, 512, 32),
    "GeM of the deep visual geo-localization benchmark, ResNet with bottlenecks": (
        lambda: GemNetwork("resnet50", 7, 0, None)
    ),
    "MixVPR": lambda: MixNetwork(2, 16, (8, 1024), (2, 16)),
}
SIZES = {
    "SuperPoint v1": {"descriptor": 32},
    "SuperGlue": {"layers": 4, "descriptor": 32, "encoder modules": 4},
    "GlueStick": {"layers": 4, "line layers": 2, "descriptor": 32},
    "IMP or EIMP": {"iterations": 9, "descriptor": 32},
    "LightGlue": {"layers": 3, "exits": 2, "descriptor": 32, "inner width": 64, "inputs per keypoint": 2},
    "NetVLAD, not whitened": {"clusters": 4, "local descriptor": 512},
    "NetVLAD with PCA whitening, as of Patch-NetVLAD": {"clusters": 4, "descriptor": 32},
    "CosPlace or EigenPlaces, ResNet": {"descriptor": 32, "depth": 18},
    "CosPlace or EigenPlaces, ResNet with bottlenecks": {"descriptor": 32, "depth": 101, "blocks of stage 3": 23},
    "GeM of the deep visual geo-localization benchmark, ResNet with bottlenecks": {"depth": 50, "blocks of stage 4": 0},
    "MixVPR": {"mixers": 2, "channels": 8, "rows": 2},
}


@pytest.mark.parametrize("name", NETWORKS)
def test_the_table_agrees_with_our_networks(name: str) -> None:
    found = recognise(NETWORKS[name]().state_dict())
    assert found is not None and found.layout.name == name and not found.missing and not found.unused
    assert SIZES.get(name, {}).items() <= found.sizes.items()


def test_every_method_of_the_table_exists() -> None:
    methods = {*LOCAL_EXTRACTORS, *GLOBAL_DESCRIPTORS, *LOCAL_AGGREGATORS, *MATCHERS, *IMAGE_MATCHERS}
    methods.add("segmentation")  # the setting local_features.segmentation
    assert {name for layout in LAYOUTS for name in layout.loads} <= methods
