from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from browsers import CHROMIUM

from vpr.core import Image, ImageSet, LocalFeatures

SHARED = Path(__file__).parents[2] / "shared"


def textured(seed: int, height: int = 120, width: int = 160) -> Image:
    """A picture full of corners that differ from seed to seed; (H, W, 3) RGB."""
    random = np.random.default_rng(seed)
    image = np.full((height, width, 3), random.integers(60, 200, 3), dtype=np.uint8)
    for _ in range(60):
        x, y = (int(v) for v in random.integers(0, (width, height)))
        w, h = (int(v) for v in random.integers(4, 30, 2))
        cv2.rectangle(image, (x, y), (x + w, y + h), [int(v) for v in random.integers(0, 255, 3)], -1)
    return cv2.GaussianBlur(image, (3, 3), 0)


def write_picture(path: Path, image: Image) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    _, data = cv2.imencode(path.suffix or ".png", image[..., ::-1] if image.ndim == 3 else image)
    path.write_bytes(data.tobytes())
    return path


def features(seed: int, count: int, dim: int = 16, size: tuple[int, int] = (640, 480)) -> LocalFeatures:
    """Random points with random unit descriptors."""
    random = torch.Generator().manual_seed(seed)
    descriptors = torch.nn.functional.normalize(torch.randn(count, dim, generator=random), dim=1)
    points = torch.rand(count, 2, generator=random) * torch.tensor(size, dtype=torch.float32)
    return LocalFeatures(points, torch.rand(count, generator=random), descriptors, size)


@pytest.fixture
def small_city(tmp_path: Path) -> tuple[Path, Path]:
    """Eight places 100 m apart; queries are shifted views of the first four, one more is of no place."""
    database, queries = tmp_path / "set" / "database", tmp_path / "set" / "queries"
    for place in range(8):
        view = textured(place, 140, 180)
        write_picture(database / f"@{500000 + 100 * place}.00@4000000.00@db{place}@.png", view[:120, :160])
        if place < 4:
            write_picture(queries / f"@{500005 + 100 * place}.00@4000003.00@q{place}@.png", view[10:130, 12:172])
    write_picture(queries / "@900000.00@4000000.00@nowhere@.png", textured(99))
    return database, queries


@pytest.fixture
def image_set(tmp_path: Path) -> ImageSet:
    """Twelve pictures, the fifth of which is blank and the ninth cut off."""
    for i in range(12):
        write_picture(tmp_path / "images" / f"{i:02d}.jpg", textured(i, 90, 120))
    write_picture(tmp_path / "images" / "05.jpg", np.zeros((90, 120, 3), np.uint8))
    cut = tmp_path / "images" / "09.jpg"
    cut.write_bytes(cut.read_bytes()[:-300])
    return ImageSet(tmp_path / "images", tuple(f"{i:02d}.jpg" for i in range(12)))


@pytest.fixture
def shared() -> Path:
    if not SHARED.exists():
        pytest.skip("../shared, which is not part of this repository, is absent")
    return SHARED


@pytest.fixture
def photographs(shared: Path) -> Path:
    if not (shared / "data").exists():
        pytest.skip("the photographs in ../shared/data, which are not part of this repository, are absent")
    return shared / "data"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A headless Chromium."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    if CHROMIUM is None:
        pytest.skip("needs Chromium")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()
