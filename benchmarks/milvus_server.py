"""The Milvus server of PyPI's package `milvus`, in a process that a benchmark may kill."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from types import TracebackType

_RUN = """
import sys, time
from milvus import default_server as server
server.set_base_dir(sys.argv[1])
server.listen_port = int(sys.argv[2])
server.start()
print("started", server.listen_port, flush=True)
while True:
    time.sleep(3600)
"""


class Server:
    """A server with its data in a folder, run by a Python that has the package."""

    def __init__(self, python: Path, folder: Path, port: int = 19531) -> None:
        self.python = python
        self.folder = folder
        self.uri = f"http://127.0.0.1:{port}"
        self._port = port
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        """Start, and wait until it answers."""
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that `timeout` leaves no server behind
        self.folder.mkdir(parents=True, exist_ok=True)
        command = [str(self.python), "-c", _RUN, str(self.folder / "data"), str(self._port)]
        how = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True, "start_new_session": True}
        self._process = subprocess.Popen(command, cwd=self.folder, **how)  # type: ignore[call-overload]
        assert self._process is not None and self._process.stdout is not None
        said = self._process.stdout.readline().split()
        if said[:1] != ["started"]:
            raise SystemExit(f"{self.python}: no server started; it needs `pip install milvus==2.3.5`")
        self.uri = f"http://127.0.0.1:{said[1]}"  # another port where that of a killed server is not free yet

    def kill(self) -> None:
        """End the server at once, as a machine that fails does (SIGKILL)."""
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None

    def resident_bytes(self) -> int:
        """Main memory of its processes now (Linux)."""
        assert self._process is not None
        group, total = self._process.pid, 0
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                fields = stat.read_text().rsplit(")", 1)[1].split()
                if int(fields[2]) == group:
                    total += int((stat.parent / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
            except (OSError, IndexError):
                continue  # ended meanwhile
        return total

    def disk_bytes(self) -> int:
        """Of all its files."""
        return sum(path.stat().st_size for path in self.folder.rglob("*") if path.is_file())

    def __enter__(self) -> Server:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.kill()
