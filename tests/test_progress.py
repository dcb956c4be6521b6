"""Progress where there is no terminal: a line at each tenth of a job that takes long."""

from __future__ import annotations

import logging

import pytest

from vpr.runtime.progress import Progress


@pytest.mark.parametrize(("total", "initial", "lines"), [(20, 0, 10), (3, 0, 3), (20, 10, 5), (0, 0, 0)])
def test_each_tenth_is_one_line(
    total: int, initial: int, lines: int, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vpr.runtime.progress.QUIET_S", -1.0)
    with caplog.at_level(logging.INFO), Progress("re-rank", total, "query", initial=initial) as progress:
        for _ in range(total - initial):
            progress.update()
    assert len(caplog.records) == lines
    if lines:
        assert caplog.messages[-1].startswith(f"re-rank: {total} of {total} (100 %), ")


def test_a_short_job_says_nothing(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        assert list(Progress("hash images", 3, "image").over("abc")) == ["a", "b", "c"]
    assert caplog.messages == []
