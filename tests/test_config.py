from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest

from vpr.cli.common import call_with
from vpr.config import config_path, digest_of_names, dump, fingerprint, load, load_with_sources, shipped_configs
from vpr.core import ConfigError
from vpr.matchers import MATCHERS, superglue
from vpr.matchers.one_to_many import ScoreAgreement
from vpr.settings import Settings
from vpr.toml_text import typed_value
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
    with pytest.raises(
        ConfigError, match=r"\[matcher.agreement\] unknown key 'accept_treshold' \(did you mean 'accept_threshold'\?\)"
    ):
        load(Settings, None, ["matcher.method=superglue", "matcher.agreement.accept_treshold=1"])


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


# --- layers: extends, recipes, overrides, and where a value comes from


def written(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_a_config_extends_others(tmp_path: Path) -> None:
    written(tmp_path / "a.toml", "[shortlist]\nk = 7\n[rerank]\nk = 3\n[matcher]\nratio = 0.5\n")
    written(tmp_path / "b.toml", 'extends = "a"\n[rerank]\nk = 4\n')
    path = written(tmp_path / "c.toml", 'extends = "b.toml"\n[shortlist]\nk = 8\n')
    settings, sources = load_with_sources(Settings, path, ["machine.threads=1"])
    assert (settings.shortlist.k, settings.rerank.k, settings.machine.threads) == (8, 4, 1)
    assert sources["shortlist", "k"] == f"config {path}" and sources["machine", "threads"] == "--set"
    assert sources["rerank", "k"] == f"config {tmp_path / 'b.toml'}"
    assert sources["matcher", "ratio"] == f"config {tmp_path / 'a.toml'}"
    shipped = load(Settings, written(tmp_path / "d.toml", 'extends = "rootsift_vlad"'))
    assert shipped == load(Settings, config_path("rootsift_vlad"))


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ('extends = "mine"', "a config cannot extend itself"),
        ('extends = "other"', r"mine.toml extends .*other.toml extends .*mine.toml: a config cannot extend itself"),
        ('extends = "rotsift_vlad"', r"extends = 'rotsift_vlad': no config .*\(did you mean 'rootsift_vlad'\?\)"),
        ("extends = 3", "expected the name or the path of a config"),
        ('extends = "absent.toml"', "absent.toml: no such file"),
    ],
)
def test_extending_goes_wrong_with_a_sentence(tmp_path: Path, text: str, sentence: str) -> None:
    written(tmp_path / "other.toml", 'extends = "mine"')
    with pytest.raises(ConfigError, match=sentence):
        load(Settings, written(tmp_path / "mine.toml", text))


def test_deep_nesting_is_a_sentence(tmp_path: Path) -> None:
    for text in ("a = " + "[" * 5000 + "]" * 5000, "[" + ".".join("a" * 5000) + "]", "a = " + "{b = " * 5000):
        with pytest.raises(ConfigError):
            load(Settings, written(tmp_path / "deep.toml", text))
    with pytest.raises(ConfigError):
        load(Settings, None, ["machine." + ".".join("a" * 5000) + "=1"])


def test_another_method_leaves_out_what_belonged_to_the_former(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    chosen = load(Settings, config_path("rootsift_vlad"), ["matcher.method=superglue"]).matcher
    assert chosen == load(Settings, None, ["matcher.method=superglue"]).matcher
    assert "matcher.method = superglue: left out ratio, agreement, set for nearest" in caplog.text
    caplog.clear()
    # What both methods have from a common base stays, and so does what is set with the method.
    patches = ["rerank.method=patch_netvlad", "rerank.k=7", "global_descriptor.method=patch_netvlad"]
    weights = "global_descriptor.weights=x"
    assert load(Settings, config_path("demo"), [*patches[::2], weights]).rerank.k == 20
    assert load(Settings, config_path("demo"), [*patches, weights]).rerank.k == 7
    assert not caplog.records
    cosplace = load(Settings, config_path("cosplace_resnet50_2048"), ["global_descriptor.method=eigenplaces"])
    assert cosplace.global_descriptor.weights == "eigenplaces_resnet50_2048"  # type: ignore[attr-defined]


@pytest.mark.parametrize("first", CONFIGS)
def test_any_config_takes_any_matcher(first: tuple[str, str]) -> None:
    if first[0] == "run":
        for name in MATCHERS:
            settings = load(Settings, config_path(first[1]), [f"matcher.method={name}"])
            assert settings.matcher.method == name


def test_the_recipe_of_the_weights_comes_before_defaults_and_after_configs(tmp_path: Path) -> None:
    def threshold(*overrides: str, text: str = "") -> object:
        return load(Settings, written(tmp_path / "c.toml", text), overrides).matcher.model_dump()["match_threshold"]

    assert superglue.Settings().match_threshold == 0.2
    ours = 'matcher = { method = "superglue", weights = "vpr-superglue"'
    assert threshold(text=ours + "}") == 0.4
    assert threshold(text=ours + ", match_threshold = 0.3 }") == 0.3
    assert threshold("matcher.match_threshold=0.1", text=ours + ", match_threshold = 0.3 }") == 0.1
    assert threshold("matcher.weights=superglue_indoor", text=ours + "}") == 0.2


def test_sections_of_a_recipe_are_completed_and_switched_off() -> None:
    def agreement(*overrides: str) -> object:
        return load(Settings, config_path("superpoint_superglue"), overrides).matcher.model_dump()["agreement"]

    assert agreement() == ScoreAgreement(accept_threshold=0.6).model_dump()
    assert agreement("matcher.agreement.tolerance=6") == ScoreAgreement(accept_threshold=0.6, tolerance=6).model_dump()
    assert agreement("matcher.agreement=false") is None


def test_what_is_shown_says_where_each_value_comes_from(tmp_path: Path) -> None:
    given = ["matcher.sinkhorn_iterations=50", "matcher.agreement.tolerance=6"]
    settings, sources = load_with_sources(Settings, config_path("superpoint_superglue"), given)
    shown = dump(settings, sources)
    lines = shown.splitlines()
    assert all("  # " in line for line in lines if line and not line.startswith("["))
    for line in (
        'method = "superglue"  # config superpoint_superglue',
        'weights = "vpr-superglue"  # default',
        "sinkhorn_iterations = 50  # --set",
        "match_threshold = 0.4  # weights vpr-superglue",
        "accept_threshold = 0.6  # weights vpr-superglue",
        "tolerance = 6.0  # --set",
        "min_inliers = 6  # default",
        'method = "vlad"  # config superpoint_vlad',
        "size = false  # default",
    ):
        assert line in lines, line
    assert load(Settings, written(tmp_path / "shown.toml", shown)) == settings


def test_what_is_switched_off_stays_off_when_it_is_read_back(tmp_path: Path) -> None:
    settings = load(Settings, config_path("superpoint_superglue"), ["matcher.agreement=false"])
    assert "agreement = false" in dump(settings)
    assert load(Settings, written(tmp_path / "c.toml", dump(settings))) == settings


@pytest.mark.parametrize("text", ["2024", "true", "inf", "1e3", "2024-01-01", "false"])
def test_text_stays_text(text: str) -> None:
    settings = load(Settings, None, [f"output.shortlist_name={text}", "machine.device=1"])
    assert settings.output.shortlist_name == text and settings.machine.device == "1"
    assert load(Settings, None, [f'output.shortlist_name="{text}"']) == load(
        Settings, None, [f"output.shortlist_name={text}"]
    )


def test_values_are_read_by_the_declared_type() -> None:
    assert typed_value("2015", Path) == "2015" and typed_value("2015", int) == 2015
    assert typed_value("false", Path | None) is False and typed_value("3", str | None) == "3"
    assert typed_value("corners", bool | Literal["corners"]) == "corners"
    assert typed_value("false", bool | Literal["corners"]) is False
    assert typed_value("[1, 2]", tuple[int, ...]) == [1, 2] and typed_value("a", tuple[int, ...]) == "a"
    assert typed_value('["a"]', tuple[str, ...] | str) == ["a"] and typed_value("7", tuple[str, ...] | str) == "7"


def test_sources_of_data_are_read_by_the_declared_type(tmp_path: Path) -> None:
    def read(root: Path, k: int = 1, name: str = "") -> tuple[Path, int, str]:
        return root, k, name

    assert call_with(read, ["root=2015", "k=3", "name=true"], "x") == (Path("2015"), 3, "true")
    assert call_with(read, ["root=inf"], "x")[0] == Path("inf")
