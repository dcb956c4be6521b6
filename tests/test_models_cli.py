"""``vpr models``, as a user runs it."""

from __future__ import annotations

import hashlib
import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from test_hostile import call
from weights_server import BODY, Site, serve

from vpr.local_features.superpoint_network import SuperPointNetwork
from vpr.training.export import save_weights


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """A server that has the one file of a manifest."""
    monkeypatch.setenv("VPR_MODELS", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "*")
    with serve() as made:
        (tmp_path / "manifest.toml").write_text(
            f'[a]\nloads = ["superpoint"]\nsource = "s"\nlicence = "theirs"\nnotice = "Not for sale."\n'
            f'folder = "http://127.0.0.1:{made.port}"\nfiles.one = "one.pth"\nfiles.two = "two.pth"\n'
        )
        for module in ("manifest", "finding"):
            monkeypatch.setattr(f"vpr.weights.{module}.shipped", lambda folder: tmp_path)
        yield made


def fails(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one sentence with which the command ends."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        call(["models", *arguments])
    assert stop.value.code == 1
    error = capsys.readouterr().err.strip()
    assert error.startswith("error: ") and "Traceback" not in error
    return error


def test_list(site: Site, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "two.pth").write_bytes(BODY)
    call(["models", "list"])
    one, two = (line.split() for line in capsys.readouterr().out.splitlines())
    assert one == ["one", "superpoint", "theirs", "-"]
    assert two == ["two", "superpoint", "theirs", str(tmp_path / "cache" / "two.pth"), "(cache)"]


def test_list_does_not_wait_for_torch() -> None:
    code = "import sys, vpr.cli.models as m; m.list_(); sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "superglue_outdoor" in done.stdout


def test_fetch_prints_the_licence_first_and_only_then(
    site: Site, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    call(["models", "fetch", "one", "two"])
    said = capsys.readouterr().out.splitlines()
    assert said == [
        "one: licence theirs; source s. Not for sale.",
        f"one: {tmp_path}/cache/one.pth",
        "two: licence theirs; source s. Not for sale.",
        f"two: {tmp_path}/cache/two.pth",
    ]
    assert len(site.asked) == 2
    call(["models", "fetch", "one"])
    assert capsys.readouterr().out == f"one: {tmp_path}/cache/one.pth\n"
    assert len(site.asked) == 2


def test_fetch_after_an_interruption(site: Site, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    site.cut = [70_000]
    assert "run the command again to continue it" in fails(["fetch", "one"], capsys)
    call(["models", "fetch", "one"])
    assert (tmp_path / "cache" / "one.pth").read_bytes() == BODY
    assert site.asked[1]["Range"] == "bytes=70000-"


def test_fetch_knows_the_names(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    assert "no weights are known by the name 'on' (did you mean one?)" in fails(["fetch", "on"], capsys)
    assert "by the name 'x'" in fails(["fetch", "one", "x"], capsys)
    assert not site.asked


def test_check_tells_what_a_file_is(site: Site, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "cache").mkdir()
    state = {f"module.{name}": tensor for name, tensor in SuperPointNetwork().state_dict().items()}
    path = tmp_path / "cache" / "one.pth"
    torch.save({"model_state_dict": state, "epoch": 3}, path)
    call(["models", "check", str(path)])
    said = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert said["file"] == str(path)
    assert said["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert said["known"] == "as   no published or recorded file has this hash"
    assert said["tensors"] == "24, with 1,300,865 parameters"
    assert said["kind"] == "SuperPoint v1"
    assert said["loads"] == "as   superpoint"
    assert said["sizes"] == "descriptor 256"
    assert said["keys"] == "all there, none too many"

    call(["models", "check", "one"])
    assert "known as   one\n" in capsys.readouterr().out


def test_check_names_what_is_missing_and_what_is_too_much(
    site: Site, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = dict(SuperPointNetwork().state_dict(), surplus=torch.ones(1))
    torch.save(state, tmp_path / "a.pth")
    call(["models", "check", str(tmp_path / "a.pth")])
    assert "keys       not used 1 keys (surplus)" in capsys.readouterr().out
    del state["conv4b.bias"]
    torch.save(state, tmp_path / "a.pth")
    with pytest.raises(SystemExit):
        call(["models", "check", str(tmp_path / "a.pth")])
    said = capsys.readouterr()
    assert "keys       missing 1 keys (conv4b.bias); not used 1 keys (surplus)" in said.out
    assert said.err == f"error: {tmp_path}/a.pth: lacks tensors that SuperPoint v1 needs\n"


def test_check_knows_layouts_that_no_method_takes(
    site: Site, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save({"aggregator.dust_bin": torch.ones(1), "aggregator.score.0.weight": torch.ones(1)}, tmp_path / "a.ckpt")
    call(["models", "check", str(tmp_path / "a.ckpt")])
    said = capsys.readouterr().out
    assert (
        "kind       SALAD" in said and "loads as   known, not loadable yet: no method of vpr takes such weights" in said
    )
    assert "sizes      not known" in said and "keys" not in said


def test_check_of_nothing_known(site: Site, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"a": torch.ones(1)}, tmp_path / "a.pth")
    assert "weights of no known kind; they have 1 keys (a)" in fails(["check", str(tmp_path / "a.pth")], capsys)
    torch.save({"\x1b[2J" + "a" * 999: torch.ones(1)}, tmp_path / "a.pth")
    error = fails(["check", str(tmp_path / "a.pth")], capsys)
    assert r"('\x1b[2Ja" in error and len(error) < 500
    (tmp_path / "b.pth").write_text("hello")
    assert "b.pth: not a file of weights" in fails(["check", str(tmp_path / "b.pth")], capsys)
    assert "no such file" in fails(["check", str(tmp_path / "absent.pth")], capsys)
    assert "not a file" in fails(["check", str(tmp_path)], capsys)
    assert "is not on this machine" in fails(["check", "one"], capsys)


def test_check_runs_no_code(site: Site, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    class Hostile:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(tmp_path / "trap"),)

    (tmp_path / "a.pth").write_bytes(pickle.dumps(Hostile(), protocol=2))
    assert "it is refused" in fails(["check", str(tmp_path / "a.pth")], capsys)
    assert not (tmp_path / "trap").exists()


def test_exported_weights_are_what_the_published_code_reads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    network = SuperPointNetwork("v1", (8, 8, 8, 8), 16, 16)
    save_weights(tmp_path / "half.safetensors", network)
    for suffix in (".pth", ".safetensors"):
        call(
            [
                "models",
                "export",
                str(tmp_path / "half.safetensors"),
                "--layout",
                "official",
                "--out",
                str(tmp_path / f"full{suffix}"),
            ]
        )
    state = torch.load(tmp_path / "full.pth", weights_only=True)
    assert set(state) == set(network.state_dict()) and all(each.dtype == torch.float32 for each in state.values())
    assert all(torch.equal(state[key], value.half().float()) for key, value in network.state_dict().items())
    other = load_file(tmp_path / "full.safetensors")
    assert all(torch.equal(state[key], other[key]) for key in state)
    assert "ends with .pth" in fails(["export", str(tmp_path / "full.pth"), "--out", "x.onnx"], capsys)
