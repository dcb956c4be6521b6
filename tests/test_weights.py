"""Weights: the manifest, finding them on this machine, and loading them."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from vpr import config
from vpr.config import shipped_configs
from vpr.core import ConfigError
from vpr.global_descriptors import GLOBAL_DESCRIPTORS
from vpr.local_features import LOCAL_EXTRACTORS
from vpr.matchers import IMAGE_MATCHERS, MATCHERS
from vpr.runtime.files import shipped
from vpr.settings import Settings
from vpr.weights import WeightsError, find, load_published, load_strictly, manifest, sha256_of
from vpr.weights.download import fetch
from vpr.weights.finding import cache_folder, known_as
from vpr.weights.layouts import LAYOUTS
from vpr.weights.manifest import FOLDER, read_manifest


def test_the_manifest_is_whole() -> None:
    known = read_manifest().values()
    ours = [entry for entry in known if not entry.url and not entry.package]
    assert {entry.file for entry in ours} == {path.name for path in shipped(FOLDER).glob("*.safetensors")}
    for entry in ours:
        assert entry.name.startswith("vpr-") and sha256_of(shipped(FOLDER) / entry.file) == entry.sha256
    assert sum((shipped(FOLDER) / entry.file).stat().st_size for entry in ours) < 45e6
    entries = [entry for entry in known if entry.url]
    assert len({entry.file for entry in entries}) == len(entries) == 61
    for entry in entries:
        assert entry.url.startswith("https://") and entry.url.endswith(f"/{entry.file}")
        assert set(entry.loads) <= {name for layout in LAYOUTS for name in layout.loads} | IMAGE_MATCHERS.keys()
    packaged = [entry for entry in known if entry.package]
    assert len(packaged) == 10 and all(entry.sha256 and entry.inside.endswith(f"/{entry.file}") for entry in packaged)
    assert {entry.name for entry in entries if "non-commercial" in entry.licence} == {
        "superpoint_v1",
        "superglue_indoor",
        "superglue_outdoor",
    }


def test_the_weights_that_configs_and_defaults_name_are_in_the_manifest() -> None:
    known = read_manifest()
    chosen = [config.load(Settings, path) for path in shipped_configs("run").values()]
    sections = [getattr(each, part) for each in chosen for part in ("local_features", "global_descriptor", "matcher")]
    for table in (LOCAL_EXTRACTORS, GLOBAL_DESCRIPTORS, MATCHERS):
        sections += [method.settings.model_construct(method=name) for name, method in table.items()]
    named = [(each.weights, each.method) for each in sections if isinstance(getattr(each, "weights", None), str)]
    assert len(named) > 5
    for name, method in named:
        if name and "/" not in name:  # else it is a file of the user's own
            assert method in known[name].loads


def test_every_address_as_published() -> None:
    known = read_manifest()
    base = "https://github.com/magicleap/SuperGluePretrainedNetwork/raw/master/models/weights"
    assert known["superglue_outdoor"].url == f"{base}/superglue_outdoor.pth"
    releases = "https://github.com/gmberton/CosPlace/releases/download/v1.0"
    assert known["cosplace_resnet50_512"].url == f"{releases}/ResNet50_512_cosplace.pth"


ENTRY = """[a]
loads = ["x"]
source = "s"
licence = "MIT"
folder = "https://example.org/f/"
files.one = "one.pth"
"""


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (ENTRY + 'licnce = "MIT"', r"\[a\] unknown key 'licnce' \(did you mean 'licence'\?\)"),
        (ENTRY + 'files.Two = "two.pth"', r"\[a.files.Two\]"),
        (ENTRY + 'files.two = "../two.pth"', r"\[a.files\] two = '../two.pth'"),
        (ENTRY + 'sha256.one = "abc"', r"\[a.sha256\] one = 'abc'"),
        (ENTRY + f'sha256.two = "{"0" * 64}"', r"\[a.sha256\] names 'two', which \[a.files\] does not"),
        (ENTRY + "recipe.two.k = 1", r"\[a.recipe\] names 'two', which \[a.files\] does not"),
        (ENTRY + 'aliases.old = "two"', r"\[a.aliases\] names 'two', which \[a.files\] does not"),
        (ENTRY + 'trained_for = { weights = "x" }', r"\[a.trained_for\] method = "),
        (ENTRY + ENTRY.replace("[a]", "[b]"), r"\[b.files\] the name one is taken"),
        (ENTRY.replace('licence = "MIT"\n', ""), r"\[a\] licence = "),
        ("a = 1", r"a = 1: expected a table \[a\]"),
        ("[a", "not a readable TOML file"),
    ],
)
def test_the_manifest_is_read_strictly(tmp_path: Path, text: str, sentence: str) -> None:
    path = tmp_path / "manifest.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=sentence) as raised:
        read_manifest(path)
    assert str(raised.value).startswith(f"{path}: ")


# --- finding


def saved(path: Path, content: object) -> Path:
    torch.save(content, path)
    return path


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder, and a manifest with a non-commercial file, one with a known hash, and one that comes with vpr."""
    own = tmp_path / "pretrained_models"
    own.mkdir()
    (own / "manifest.toml").write_text(
        ENTRY
        + 'notice = "Not for sale."\n'
        + ENTRY.replace("[a]", "[b]").replace("one", "two")
        + f'sha256.two = "{"0" * 64}"\n'
        + ENTRY.replace("[a]", "[c]").replace("one", "ours").replace('folder = "https://example.org/f/"\n', "")
    )
    for module in ("manifest", "finding"):
        monkeypatch.setattr(f"vpr.weights.{module}.shipped", lambda folder: own)
    monkeypatch.setenv("VPR_MODELS", str(tmp_path / "cache"))
    (tmp_path / "cache").mkdir()
    return tmp_path / "cache"


def test_the_cache_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/her")
    monkeypatch.delenv("VPR_MODELS", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache_folder() == Path("/home/her/.cache/vpr/models")
    monkeypatch.setenv("XDG_CACHE_HOME", "/caches")
    assert cache_folder() == Path("/caches/vpr/models")
    monkeypatch.setenv("VPR_MODELS", "~/models")
    assert cache_folder() == Path("/home/her/models")


def test_a_path_is_taken_as_it_is(tmp_path: Path, cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = saved(tmp_path / "one.pth", {"a": torch.ones(2)})
    assert find(str(path)).path == path
    assert not caplog.records and not (cache / "recorded.toml").exists()


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (
            "one",
            r"not on this machine: fetch it with `vpr models fetch one` \(licence MIT\), or put one.pth into .*cache",
        ),
        ("onne", r"no weights are known by the name 'onne' \(did you mean one\?\); `vpr models list`"),
        ("zzz", "no weights are known by the name 'zzz'; `vpr models list`"),
        ("a/one", "a/one: no such file; give a file of weights"),
        ("one.pth", "one.pth: no such file"),
        ("/", "/: not a file"),
    ],
)
def test_what_cannot_be_found(
    given: str, sentence: str, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(WeightsError, match=sentence):
        find(given)


def test_the_licence_is_told_once_and_a_change_is_refused(cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = saved(cache / "one.pth", {"a": torch.ones(2)})
    assert find("one").path == path
    assert [record.message for record in caplog.records] == ["one: licence MIT; source s. Not for sale."]
    assert known_as(sha256_of(path)) == ["one"]
    caplog.clear()
    find("one")
    assert not caplog.records

    saved(path, {"other": torch.ones(1)})
    with pytest.raises(
        WeightsError, match=r"when one was first used. Delete it and run .*remove the line one from (.*)"
    ) as raised:
        find("one")
    recorded = Path(str(raised.value).rsplit(" ", 1)[1])
    recorded.write_text("".join(line for line in recorded.read_text().splitlines(True) if not line.startswith("one ")))
    assert find("one").sha256 == sha256_of(path)


def test_a_published_hash_is_checked(cache: Path) -> None:
    saved(cache / "two.pth", {"a": torch.ones(2)})
    with pytest.raises(
        WeightsError, match=r"that of the published file 0{64}; delete it and run `vpr models fetch two`"
    ):
        find("two")
    assert not (cache / "recorded.toml").exists()


def test_what_comes_with_vpr_goes_first_and_needs_no_record(cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    own = saved(manifest.shipped("") / "ours.pth", {"a": torch.ones(2)})
    saved(cache / "ours.pth", {"other": torch.ones(1)})
    assert find("ours").path == own
    assert not caplog.records and not (cache / "recorded.toml").exists()


def test_what_should_have_come_with_vpr(cache: Path) -> None:
    for get in (find, lambda name: fetch(read_manifest()[name])):
        with pytest.raises(WeightsError, match=r"ours.pth: missing, though it comes with vpr; install vpr again"):
            get("ours")


def test_a_cache_that_cannot_be_written_is_no_obstacle(
    cache: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, data: str) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("vpr.weights.finding.write_atomically", refuse)
    saved(cache / "one.pth", {"a": torch.ones(2)})
    assert find("one").path == cache / "one.pth"
    assert caplog.records[-1].levelno == logging.WARNING
    assert "a later change of the file stays unnoticed" in caplog.records[-1].message


def test_a_damaged_record_is_a_sentence(cache: Path) -> None:
    saved(cache / "one.pth", {"a": torch.ones(2)})
    (cache / "recorded.toml").write_text("one = ")
    with pytest.raises(WeightsError, match=r"recorded.toml: damaged .*delete it to record anew"):
        find("one")


def test_loading_by_name(cache: Path) -> None:
    saved(cache / "one.pth", {"state_dict": {"module.kernel": torch.ones(2, 3), "bias": torch.zeros(2)}})
    model = nn.Linear(3, 2)

    def convert(state: dict[str, Tensor]) -> dict[str, Tensor]:
        return {key.replace("kernel", "weight"): value for key, value in state.items()}

    assert load_published(model, "one", convert) == sha256_of(cache / "one.pth")
    assert torch.equal(model.weight, torch.ones(2, 3))
    with pytest.raises(WeightsError, match=r"one.pth: not weights of Linear: missing 1 keys \(weight\)"):
        load_published(model, "one", dict)


def test_strict_loading_names_what_is_wrong() -> None:
    state = {"weight": torch.ones(2, 4), "gain": torch.ones(1)}
    with pytest.raises(WeightsError) as raised:
        load_strictly(nn.Linear(3, 2), state, "x.pth")
    assert str(raised.value) == (
        "x.pth: not weights of Linear: missing 1 keys (bias); not used 1 keys (gain); of another shape 1 keys (weight)"
    )
