"""Kill a writer of a map at random moments, and check after each that the map is whole and of a committed state.

    python benchmarks/map_killed.py [--moments 30] [--seed 0]

A child process creates a map of small images, adds, removes and compacts, and is killed by SIGKILL after a random time.
After each kill every checksum is compared, the images must be those after some of the commits, and a question is asked.
The next child goes on in the same folder, until it ends; then a new map is begun.
"""

from __future__ import annotations

import argparse
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from maps import view, write_images
from test_maps_killed import change, committed, what_lies_in

from vpr.maps import Map

CHILD = "import sys; sys.path.insert(0, sys.argv[1]); from pathlib import Path; from test_maps_killed import change; "
CHILD += "print('begun', flush=True); change(*map(Path, sys.argv[2:]))"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--moments", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    moments = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        pictures = write_images(root / "images", range(4)), write_images(root / "more", range(4, 8))
        started = time.perf_counter()
        change(root / "once", *pictures)
        whole_s = time.perf_counter() - started
        killed = rounds = 0
        while killed < arguments.moments:
            folder = root / f"city{rounds}"
            if not killed_after(folder, pictures, moments.uniform(0, whole_s)):
                rounds += 1
                continue
            killed += 1
            held = what_lies_in(folder)
            assert committed(held), held
            answer = Map(folder).locate(view(3, 6)).candidates if held else ()
            print(
                f"{killed:3}: {len(held)} images, verify clean, answer {answer[0].name if answer else 'none'}",
                flush=True,
            )
            assert ("003.png" in held) == any(each.name == "003.png" for each in answer[:1])
            if moments.random() < 0.3:
                rounds += 1
                shutil.rmtree(folder)
    print(f"{killed} kills: every map was whole and of a committed state")


def killed_after(folder: Path, pictures: tuple[Path, Path], seconds: float) -> bool:
    """Whether the child was killed before it ended."""
    tests = str(Path(__file__).parents[1] / "tests")
    command = [sys.executable, "-c", CHILD, tests, str(folder), *map(str, pictures)]
    child = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert child.stdout is not None
    child.stdout.readline()
    time.sleep(seconds)
    child.kill()
    return child.wait() != 0


if __name__ == "__main__":
    main()
