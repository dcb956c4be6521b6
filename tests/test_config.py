from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest

from vpr.config import config_path, digest_of_names, dump, fingerprint, load, shipped_configs
from vpr.core import ConfigError
from vpr.settings import Settings
from vpr.training.tasks import Settings as TrainingSettings

CONFIGS = [("run", name) for name in shipped_configs("run")] + [("train", name) for name in shipped_configs("train")]


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        (
            "local_features.max_keypoint=3",
            "[local_features] unknown key 'max_keypoint' (did you mean 'max_keypoints'?)",
        ),
        ("shortlst.k=3", "unknown key 'shortlst' (did you mean 'shortlist'?)"),
        ("shortlist.k=0", "[shortlist] k = 0: input should be greater than or equal to 1"),
        ("matcher.method=nearst", "unknown matcher 'nearst' (did you mean 'nearest'?)"),
        ("rerank.score=conf", "unknown score 'conf'; known: confidence_sum"),
        ("machine=3", "machine = 3"),
        ("local_features=3", "expected a section with a line method = NAME"),
        ("shortlist.k.x=3", "k = {'x': 3}: input should be a valid integer"),
        ("verification.threshold=nan", "finite number"),
        ("evaluation.recall_at=[]", "recall_at"),
        ("output.predictions_name=shortlist", "must differ"),
        ("global_descriptor.method=thumbnail", None),
        ("no equals sign", "expected section.key=value"),
        (".k=3", "expected section.key=value"),
    ],
)
def test_overrides_are_strict(override: str, sentence: str | None) -> None:
    if sentence is None:
        load(Settings, None, [override])
        return
    with pytest.raises(ConfigError) as caught:
        load(Settings, None, [override])
    assert sentence in str(caught.value)


def test_keys_of_a_section_that_may_be_absent_are_named() -> None:
    with pytest.raises(ConfigError, match=r"\[matcher.agreement\] unknown key 'shure' \(did you mean 'sure'\?\)"):
        load(Settings, None, ["matcher.method=superglue", "matcher.agreement.shure=1"])


def test_an_override_of_a_value_is_no_section() -> None:
    with pytest.raises(ConfigError, match="is a value, not a section"):
        load(Settings, None, ["shortlist.k=3", "shortlist.k.deeper=4"])


def test_quotes_may_be_left_out() -> None:
    plain, quoted = (load(Settings, None, [f"machine.device={text}"]) for text in ("cpu", '"cpu"'))
    assert plain == quoted and plain.machine.device == "cpu"


def test_files_then_overrides(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text("[shortlist]\nk = 7\n[rerank]\nk = 3\n")
    settings = load(Settings, path, ["rerank.k=5"])
    assert (settings.shortlist.k, settings.rerank.k, settings.store.shard_size) == (7, 5, 128)


@pytest.mark.parametrize(
    ("text", "reason"), [("[shortlist\nk=", "not a readable TOML"), ("[shortlist]\nkk = 2\n", "unknown key 'kk'")]
)
def test_a_bad_file_is_named(tmp_path: Path, text: str, reason: str) -> None:
    path = tmp_path / "bad.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=reason) as caught:
        load(Settings, path)
    assert str(path) in str(caught.value)
    with pytest.raises(ConfigError, match="no such file"):
        load(Settings, tmp_path / "absent.toml")


def test_what_is_dumped_reads_back(tmp_path: Path) -> None:
    settings = load(Settings, None, ["global_descriptor.method=thumbnail", "rerank.k=0", "machine.device=cpu"])
    path = tmp_path / "settings.toml"
    path.write_text(dump(settings))
    assert load(Settings, path) == settings


@pytest.mark.parametrize(("kind", "name"), CONFIGS)
def test_every_config_that_ships_loads_and_says_what_it_is(kind: Literal["run", "train"], name: str) -> None:
    path = config_path(name, kind)
    load(Settings if kind == "run" else TrainingSettings, path)
    assert path.read_text().startswith("# ")


def test_a_training_config_is_found_by_its_former_name_too() -> None:
    assert config_path("train_superglue", "train") == config_path("superglue", "train")
    with pytest.raises(ConfigError, match="no config 'train_superglue' comes with vpr"):
        config_path("train_superglue")


def test_a_folder_may_have_the_name_of_a_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "demo").mkdir()
    assert config_path("demo").name == "demo.toml"
    (tmp_path / "mine").write_text("")
    assert config_path("mine") == Path("mine")


def test_fingerprints_follow_the_content() -> None:
    one, other = Settings(), load(Settings, None, ["rerank.k=1"])
    assert fingerprint({"a": one, "b": 1}) == fingerprint({"b": 1, "a": Settings()})
    assert fingerprint({"a": one}) != fingerprint({"a": other})
    assert len({digest_of_names(names) for names in (["a", "b"], ["b", "a"], ["ab"], ["a"], [])}) == 5
