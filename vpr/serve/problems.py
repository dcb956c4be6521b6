"""Errors as problem+json (RFC 9457): the sentences of the command line, without the paths of the server."""

from __future__ import annotations

import os
import re
import sys
import tempfile
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from pathlib import Path
from typing import Any

from vpr.core import VprError

MEDIA_TYPE = "application/problem+json"
# An absolute path, of which the last part is kept: that of a POSIX system or of Windows, but no part of an address.
_PATH = re.compile(r"(?<![\w/.:>~-])(?:[A-Za-z]:[\\/]|~?/)(?:[^\s'\":;,()]*[/\\])*([^\s'\":;,()/\\]*)")


class RequestProblem(VprError):
    """A request that is refused; the message is the sentence of the answer."""

    def __init__(
        self, status: int, sentence: str, kind: str = "DataError", headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(sentence)
        self.status = status
        self.kind = kind  # of the error that the Python client raises
        self.headers = dict(headers or {})


class Paths:
    """The folders of a server, which no answer names."""

    def __init__(self, named: Mapping[Path, str]) -> None:
        everywhere = {
            Path(tempfile.gettempdir()): "",
            Path(sys.prefix): "",
            Path(__file__).parents[1]: "vpr",
            Path(os.path.expanduser("~")): "~",
        }
        texts = {text: name for path, name in {**everywhere, **named}.items() for text in {str(path), _resolved(path)}}
        self._names = sorted(
            ((text, name) for text, name in texts.items() if len(text) > 1), key=lambda each: -len(each[0])
        )

    def removed(self, text: str) -> str:
        """A sentence in which folders of the server have names, and other paths are the names of their files."""
        for path, name in self._names:
            text = text.replace(path, name)
        return _PATH.sub(r"\1", text)


def _resolved(path: Path) -> str:
    return str(path.resolve())


def body_of(problem: RequestProblem) -> dict[str, Any]:
    """The members of the answer."""
    return {
        "type": "about:blank",
        "title": HTTPStatus(problem.status).phrase,
        "status": problem.status,
        "detail": str(problem),
        "error": problem.kind,
    }


def busy(sentence: str, seconds: int = 5) -> RequestProblem:
    """503: to be asked again after some seconds."""
    return RequestProblem(503, sentence, headers={"Retry-After": str(seconds)})


def of_http(status: int, detail: str) -> RequestProblem:
    """What the web framework refuses: an address or a method that does not exist."""
    sentences = {
        404: "nothing lies at this address; /docs lists what can be asked",
        405: "this address is not asked by this method; /docs lists what can be asked",
    }
    return RequestProblem(status, sentences.get(status, detail))


def of_validation(errors: Sequence[Mapping[str, Any]]) -> RequestProblem:
    """A part of an address that is no number, or one out of bounds."""
    first = errors[0]
    where = " ".join(str(part) for part in first.get("loc", ()))
    return RequestProblem(422, f"{where}: {first.get('msg', 'cannot be read')}", "ConfigError")
