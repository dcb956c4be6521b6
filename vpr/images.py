"""Pictures from disk to arrays: decoding, sizes, and loading in threads ahead of the consumer."""

from __future__ import annotations

import io
import os
import stat
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import cv2
import imagesize
import numpy as np
from numpy.typing import NDArray

from vpr.core import Channels, Image, ImageError

if TYPE_CHECKING:
    from PIL.Image import Image as PilImage

MAX_MEGAPIXELS = 100.0
# Lower case. What OpenCV decodes and whose size can be read from the header alone.
SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm")

# OpenCV honours the EXIF orientation with these flags, and decodes grey from the JPEG's own luma.
_FLAGS = {"grey": cv2.IMREAD_GRAYSCALE, "rgb": cv2.IMREAD_COLOR_RGB}

T = TypeVar("T")
ImageLike: TypeAlias = "str | os.PathLike[str] | NDArray[Any] | PilImage"


def read_image(path: Path, channels: Channels, max_megapixels: float = MAX_MEGAPIXELS) -> Image:
    """Decode a picture upright: (H, W) for "grey", (H, W, 3) for "rgb", uint8.

    Raises ImageError, which names the file, for a missing, empty, truncated, enormous or foreign file.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # a named pipe would be waited for without end
            raise ImageError(f"{path}: not a file but a folder, pipe or device")
        data = path.read_bytes()
    except FileNotFoundError:
        raise ImageError(f"{path}: no such image") from None
    except OSError as error:
        raise ImageError(f"{path}: cannot be read: {error.strerror}") from None
    return decode(data, channels, max_megapixels, name=str(path))


def decode(data: bytes, channels: Channels, max_megapixels: float = MAX_MEGAPIXELS, name: str = "image") -> Image:
    """Decode the bytes of a picture; see read_image. ``name`` stands in the error."""
    if not data:
        raise ImageError(f"{name}: the file is empty")
    width, height = _size_in_header(data)
    if width * height > max_megapixels * 1e6:
        raise ImageError(
            f"{name}: {width} x {height} is more than {max_megapixels:g} megapixels; "
            "shrink it or raise images.max_megapixels"
        )
    image = cv2.imdecode(np.frombuffer(data, np.uint8), _FLAGS[channels])
    if image is None:  # OpenCV gives no reason
        if width > 0:
            raise ImageError(f"{name}: the image is truncated or damaged")
        raise ImageError(f"{name}: not an image, or in a format that cannot be read; known: {', '.join(SUFFIXES)}")
    return np.asarray(image, dtype=np.uint8)


def _size_in_header(data: bytes) -> tuple[int, int]:
    """Width and height without decoding; (-1, -1) if the header is of no known kind."""
    try:
        width, height = imagesize.get(io.BytesIO(data))
    except (ValueError, ArithmeticError, LookupError):  # damaged headers raise what they like
        return -1, -1
    return int(width), int(height)


def as_image(image: ImageLike, channels: Channels, max_megapixels: float = MAX_MEGAPIXELS) -> Image:
    """An image given as a path, an array or a PIL image, as ``read_image`` gives it.

    Arrays are (H, W) grey, (H, W, 3) RGB or (H, W, 4) RGBA uint8. Raises ImageError for anything else.
    """
    if isinstance(image, str | os.PathLike):
        return read_image(Path(image), channels, max_megapixels)
    array = np.asarray(image)
    if array.dtype != np.uint8 or array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (3, 4)):
        raise ImageError(
            f"an image given as an array has shape (H, W) or (H, W, 3) and type uint8, "
            f"not {array.shape} and {array.dtype}"
        )
    if not array.size:
        raise ImageError(f"an image of shape {array.shape} has no pixels")
    array = np.ascontiguousarray(array[..., :3] if array.ndim == 3 else array)
    if channels == "grey":
        return array if array.ndim == 2 else np.asarray(cv2.cvtColor(array, cv2.COLOR_RGB2GRAY), np.uint8)
    return array if array.ndim == 3 else np.repeat(array[..., None], 3, axis=2)


def megapixels_in_header(path: Path) -> float:
    """Size of an image without decoding it; 0 if its header is of no known kind or cannot be read."""
    try:
        width, height = imagesize.get(str(path))
    except (OSError, ValueError, ArithmeticError, LookupError):
        return 0.0
    return width * height / 1e6 if width > 0 else 0.0


def fitted_size(
    width: int,
    height: int,
    *,
    longest: int | None = None,
    shortest: int | None = None,
    multiple_of: int = 1,
    enlarge: bool = False,
) -> tuple[int, int]:
    """Width and height after scaling a side to a length and rounding both down to a multiple.

    The aspect ratio is kept up to rounding. Without ``enlarge`` a smaller image keeps its size.
    """
    scale = 1.0
    if longest is not None:
        scale = longest / max(width, height)
    elif shortest is not None:
        scale = shortest / min(width, height)
    if not enlarge:
        scale = min(scale, 1.0)
    return _scaled(width, scale, multiple_of), _scaled(height, scale, multiple_of)


def size_between(width: int, height: int, *, shortest: int, longest: int) -> tuple[int, int]:
    """Width and height with a shorter side of at least, and a longer one of at most so many pixels.

    An image that already has them keeps its size; where both cannot be had, the longer side counts.
    """
    scale = min(max(1.0, shortest / min(width, height)), longest / max(width, height))
    return _scaled(width, scale, 1), _scaled(height, scale, 1)


def _scaled(length: int, scale: float, multiple_of: int) -> int:
    scaled = max(1, int(length * scale + 0.5))
    return max(multiple_of, scaled // multiple_of * multiple_of)


def resize(image: Image, size: tuple[int, int]) -> Image:
    """Resize to (width, height): area averaging when shrinking, so that nothing aliases, cubic when enlarging."""
    height, width = image.shape[:2]
    if (width, height) == size:
        return image
    shrinks = size[0] * size[1] < width * height
    resized = cv2.resize(image, size, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)
    return np.asarray(resized, dtype=np.uint8)


def in_order(
    prepare: Callable[[int], T], rows: Sequence[int], threads: int, ahead: int | None = None
) -> Generator[tuple[int, T | ImageError], None, None]:
    """Run ``prepare(row)`` in threads, ahead of the consumer, and give the results in the order of the rows.

    Whoever may end early closes it (contextlib.closing): left to the garbage collector, which runs in any thread, even
    in one that is just starting, its threads are waited for where waiting may never end.

    A picture that cannot be used comes back as its ImageError, so that the rows of the others never shift.
    At most ``ahead`` results (default 4 per thread) wait in memory.
    """
    ahead = 4 * threads if ahead is None else ahead

    def attempt(row: int) -> T | ImageError:
        try:
            return prepare(row)
        except ImageError as error:
            return error

    waiting: deque[tuple[int, Future[T | ImageError]]] = deque()
    pool = ThreadPoolExecutor(threads, thread_name_prefix="images")
    try:
        for upcoming in rows:
            waiting.append((upcoming, pool.submit(attempt, upcoming)))
            if len(waiting) > ahead:
                row, future = waiting.popleft()
                yield row, future.result()
        for row, future in waiting:
            yield row, future.result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
