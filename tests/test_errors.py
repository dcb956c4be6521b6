"""How an error reaches the person at the terminal."""

from __future__ import annotations

import errno

import pytest

from vpr.cli.common import guarded
from vpr.core import DataError


def outcome(error: BaseException, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *options: str):
    monkeypatch.setattr("sys.argv", ["vpr", "run", *options])

    def app() -> None:
        raise error

    with pytest.raises(SystemExit) as stop:
        guarded(app)
    return stop.value.code, capsys.readouterr().err


def test_what_the_user_can_correct_is_one_sentence(capsys, monkeypatch):
    assert outcome(DataError("a.jpg: gone"), capsys, monkeypatch) == (1, "error: a.jpg: gone\n")
    full = OSError(errno.ENOSPC, "No space left on device")
    code, text = outcome(full, capsys, monkeypatch)
    assert code == 1 and text == "error: writing: No space left on device\n"
    assert outcome(PermissionError(errno.EACCES, "Permission denied", "out"), capsys, monkeypatch)[0] == 1


@pytest.mark.parametrize("error", [KeyError("row"), OSError("a defect that raises OSError"), AssertionError("ours")])
def test_a_defect_is_called_one(error, capsys, monkeypatch):
    code, text = outcome(error, capsys, monkeypatch)
    assert code == 2 and "this is a defect of vpr" in text and "--debug" in text and "Traceback" not in text
    code, text = outcome(error, capsys, monkeypatch, "--debug")
    assert code == 2 and "Traceback" in text and "in app" in text


def test_debug_shows_where_a_users_error_comes_from(capsys, monkeypatch):
    _, text = outcome(DataError("a.jpg: gone"), capsys, monkeypatch, "--debug")
    assert "Traceback" in text and text.endswith("error: a.jpg: gone\n")
