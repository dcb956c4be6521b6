"""Load on a server of a map: requests a second, their times, memory; hostile uploads and additions in the middle.

    python benchmarks/serve_load.py [--seconds 600] [--clients 4] [--out FILE.json]

The map has 200 images of random rectangles and RootSIFT, so that what is measured is the server rather than the
methods. From a third to two thirds of the time 100 hostile uploads are sent and 20 images added. It ends with an error
if any answer has status 500 or is not that of the map, or an addition is lost.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from conftest import write_picture
from maps import LATITUDE, LONGITUDE, small_map, view
from test_serve import bomb, png

import vpr
from vpr.maps import Map
from vpr.serve.client import form_of

PLACES, ADDED, HOSTILE = 200, 20, 100
TOKEN = "a-token-for-this-run-alone"
ASKED: dict[str, Any] = {"near": (LATITUDE + 0.09, LONGITUDE), "radius_m": 30_000, "k": 3}  # leaves out what is added
UPLOADS = (bomb(), png(view(1))[:3000], b"a text", b"", b"<script>alert(1)</script>", b"\xff\xd8\xff" * 10_000_000)


class Load:
    """What the clients of one run saw."""

    def __init__(self, url: str, until: float, expected: list[str]) -> None:
        self.expected = expected  # first candidate of each place, by the map itself
        self.url, self.until = url, until
        self.statuses: Counter[str] = Counter()
        self.seconds: list[float] = []
        self.wrong = 0

    def ask(self, seed: int) -> None:
        """Ask for random places until time is over."""
        random, client = np.random.default_rng(seed), vpr.Client(self.url)
        while time.monotonic() < self.until:
            place, start = int(random.integers(PLACES)), time.perf_counter()
            try:
                answer = client.locate(view(place, shift=8), **ASKED)
            except vpr.VprError as error:
                self.statuses[str(error)[:100]] += 1
                continue
            self.seconds.append(time.perf_counter() - start)
            self.statuses["answered"] += 1
            self.wrong += answer.candidates[0].name != self.expected[place]

    def attack(self, pause_s: float) -> None:
        """Hostile uploads, every tenth by a slow sender who gives up."""
        address = self.url.removeprefix("http://")
        for number in range(HOSTILE):
            body, content_type = _form_of(UPLOADS[number % len(UPLOADS)])
            connection = http.client.HTTPConnection(address, timeout=60)
            try:
                if number % 10 == 0:
                    connection.connect()
                    connection.sock.sendall(b"POST /v1/locate HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n")
                    time.sleep(0.5)
                    self.statuses["hostile gave up"] += 1
                    continue
                connection.request("POST", "/v1/locate", body, {"Content-Type": content_type})
                self.statuses[f"hostile {connection.getresponse().status}"] += 1
            except OSError:
                self.statuses["hostile cut off"] += 1
            finally:
                connection.close()
                time.sleep(pause_s)

    def add(self, pause_s: float) -> None:
        """Images of new places, one after another."""
        client = vpr.Client(self.url, TOKEN)
        for number in range(ADDED):
            client.add(view(PLACES + number), f"new/{number}.png", position=(55.0, 13.0))
            self.statuses["added"] += 1
            time.sleep(pause_s)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        held = small_map(Path(name), PLACES)
        folder = held.folder
        photos = [
            write_picture(Path(name) / "photos" / f"{place}.png", view(place, shift=8)) for place in range(PLACES)
        ]
        expected = [held.locate(photo, **ASKED).candidates[0].name for photo in photos]
        assert [held.locate(photo, **ASKED).candidates[0].name for photo in photos] == expected
        command = [sys.executable, "-m", "vpr", "serve", str(folder), "--port", "0"]
        environment = {**os.environ, "VPR_TOKEN": TOKEN}
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as server:
            try:
                assert server.stdout is not None
                url = server.stdout.readline().split()[3].rstrip(";")
                result = measured(url, server.pid, expected, arguments.seconds, arguments.clients)
            finally:
                server.terminate()
        held = Map(folder)
        result["verify"], result["images"] = held.verify(), len(held)
    text = json.dumps(result, indent=1)
    print(text)
    if arguments.out is not None:
        arguments.out.write_text(text + "\n")
    assert result["images"] == PLACES + ADDED and not result["verify"], "an addition was lost"
    assert not result["answers_other_than_the_map"], "an answer that is not the map's"
    assert not any("500" in status or "defect" in status for status in result["statuses"]), "a status 500"


def measured(url: str, process: int, expected: list[str], seconds: float, clients: int) -> dict[str, object]:
    """Figures of one run."""
    load = Load(url, time.monotonic() + seconds, expected)
    load_threads = [threading.Thread(target=load.ask, args=(seed,)) for seed in range(clients)]
    others = [
        threading.Thread(target=load.attack, args=(seconds / 3 / HOSTILE,)),
        threading.Thread(target=load.add, args=(seconds / 3 / ADDED,)),
    ]
    for thread in load_threads:
        thread.start()
    time.sleep(seconds / 6)
    memory = {"a sixth": memory_mb(process)}
    time.sleep(seconds / 6)
    memory["a third"] = memory_mb(process)
    for thread in others:
        thread.start()
    for thread in [*others, *load_threads]:
        thread.join()
    memory["the end"] = memory_mb(process)
    p50, p95, p99 = np.percentile(load.seconds, [50, 95, 99]).round(4).tolist()
    return {
        "machine": f"{os.cpu_count()} cores, {sys.platform}",
        "load_before": os.getloadavg()[0],
        "seconds": seconds,
        "clients": clients,
        "requests_per_s": round(len(load.seconds) / seconds, 2),
        "p50_s": p50,
        "p95_s": p95,
        "p99_s": p99,
        "answers_other_than_the_map": load.wrong,
        "statuses": dict(load.statuses),
        "memory_mb_after": memory,
    }


def memory_mb(process: int) -> float:
    """Resident memory of a process, on Linux."""
    pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    return round(pages * resource.getpagesize() / 1e6, 1)


def _form_of(data: bytes) -> tuple[bytes, str]:
    with tempfile.NamedTemporaryFile() as file:
        file.write(data)
        file.flush()
        return form_of(file.name, {})


if __name__ == "__main__":
    main()
