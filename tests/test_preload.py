"""torch's libraries are loaded ahead by commands that compute, and by no other."""

from __future__ import annotations

import subprocess
import sys

import pytest

from vpr.__main__ import computes


@pytest.mark.parametrize("line", ["map locate city a.jpg", "run --database a", "serve city", "match-two a.jpg b.jpg"])
def test_commands_that_compute(line: str) -> None:
    assert computes(line.split())
    assert not computes([*line.split(), "--help"])


@pytest.mark.parametrize("line", ["", "map", "map info city", "models list", "config list", "--help"])
def test_commands_that_do_not(line: str) -> None:
    assert not computes(line.split())


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux loads ahead")
def test_what_is_preloaded_is_what_torch_uses() -> None:
    """One copy of the library is mapped, whether the thread or the import was first; and torch computes."""
    code = (
        "from vpr.runtime.preload import preload_torch; t = preload_torch(); t.join()\n"
        "held = {line.split()[-1] for line in open('/proc/self/maps') if 'libtorch_python' in line}\n"
        "import torch; assert torch.ones(2).sum() == 2\n"
        "after = {line.split()[-1] for line in open('/proc/self/maps') if 'libtorch_python' in line}\n"
        "print(len(held), held == after)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["1", "True"], done.stderr
