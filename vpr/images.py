"""Images from disk to arrays: decoding, sizes, and loading in threads ahead of the consumer."""

from __future__ import annotations

import io
import os
import stat
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from importlib import import_module
from importlib.util import find_spec
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
# Lower case. What can be read, and whose size the header says; HEIC and JPEG XL need plugins of Pillow.
SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm", ".pnm", ".pbm"),
    *(".gif", ".jp2", ".avif", ".heic", ".heif", ".jxl"),
)
WRITTEN_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".ppm")

_KINDS: dict[str, bytes | tuple[bytes, ...]] = {
    "JPEG": b"\xff\xd8\xff",
    "PNG": b"\x89PNG\r\n\x1a\n",
    "GIF": (b"GIF87a", b"GIF89a"),
    "TIFF": (b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+"),
    "BMP": b"BM",
    "JPEG 2000": (b"\x00\x00\x00\x0cjP  ", b"\xff\x4f\xff\x51"),
    "JPEG XL": (b"\xff\x0a", b"\x00\x00\x00\x0cJXL "),
}
_HEIC = (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1")
_DEEP = ("PNG", "TIFF", "PNM", "JPEG 2000")  # may hold samples of more than 8 bits
_ENDS = {"JPEG": b"\xff\xd9", "PNG": b"IEND"}
_TAIL = 4096  # bytes in which a whole file ends
# Read by Pillow where OpenCV, which knows its own formats by a suffix, does not; two of them by a plugin of Pillow.
_WITH_PILLOW = {"GIF": ".gif", "JPEG 2000": ".jp2", "AVIF": ".avif", "HEIC": ".heic", "JPEG XL": ".jxl"}
_PLUGINS = {
    **dict.fromkeys(("HEIC", ".heic", ".heif"), "pillow-heif"),
    **dict.fromkeys(("JPEG XL", ".jxl"), "pillow-jxl-plugin"),
}
_ORIENTATION, _LYING = 0x0112, (5, 6, 7, 8)  # EXIF tag, and its values that exchange width and height
_ENORMOUS = (1 << 20, 1 << 20)  # stands for a size that Pillow refuses

# OpenCV honours the EXIF orientation with these flags, and decodes grey from the JPEG's own luma.
_FLAGS = {"grey": cv2.IMREAD_GRAYSCALE, "rgb": cv2.IMREAD_COLOR_RGB}

T = TypeVar("T")
F = TypeVar("F", np.float32, np.float64)
ImageLike: TypeAlias = "str | os.PathLike[str] | NDArray[Any] | PilImage"


def read_image(path: Path, channels: Channels, max_megapixels: float = MAX_MEGAPIXELS) -> Image:
    """Decode an image upright: (H, W) for "grey", (H, W, 3) for "rgb", uint8.

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
    """Decode the bytes of an image, of several the first; see read_image. ``name`` stands in the error.

    Samples of more than 8 bits are scaled by the range that the image uses; see eight_bits.
    """
    kind, (width, height) = kind_and_size(data, max_megapixels, name)
    image = None
    if width > 0 and height > 0:
        if kind in _WITH_PILLOW and not cv2.haveImageWriter(_WITH_PILLOW[kind]):
            image = _pillow(data, channels)
        elif kind in _DEEP and not (kind == "PNG" and data[24:25] != b"\x10"):  # bits per sample
            image = _decode_deep(data, channels)
        else:
            image = _opencv(data, _FLAGS[channels])
    if image is None:
        raise ImageError(f"{name}: {_why_not(data, kind)}")
    return np.asarray(image, dtype=np.uint8)


def kind_and_size(
    data: bytes, max_megapixels: float = MAX_MEGAPIXELS, name: str = "image"
) -> tuple[str, tuple[int, int]]:
    """Format, width and height of the bytes of an image by its header; (-1, -1) where that says no size.

    Raises ImageError for an empty, foreign or enormous file.
    """
    if not data:
        raise ImageError(f"{name}: the file is empty")
    kind = kind_of(data)
    if kind is None:  # nothing is decoded whose size is not known before
        raise ImageError(f"{name}: not an image, or in a format that cannot be read; known: {', '.join(SUFFIXES)}")
    width, height = _size_in_header(data)
    if width * height > max_megapixels * 1e6:
        raise ImageError(
            f"{name}: {width} x {height} is more than {max_megapixels:g} megapixels; "
            "shrink it or raise images.max_megapixels"
        )
    return kind, (width, height)


def kind_of(data: bytes) -> str | None:
    """The format of a file by its first bytes, for instance "JPEG"; None if it is none that is read."""
    head = data[:32]
    for kind, beginnings in _KINDS.items():
        if head.startswith(beginnings):
            return kind
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WebP"
    if head[4:8] == b"ftyp":
        return "AVIF" if head[8:12] in (b"avif", b"avis") else "HEIC" if head[8:12] in _HEIC else None
    return "PNM" if head[:1] == b"P" and head[1:2] in b"123456" and head[2:3].isspace() else None


def eight_bits(image: NDArray[Any]) -> Image:
    """An image of more than 8 bits as uint8, scaled by the range that it uses.

    16-bit samples often hold 8, 10, 12 or 14 bits; the largest sample decides. Floating-point samples are taken to end
    at 1, at 255, or as 16-bit samples do; what is negative or not a number is black.
    """
    if image.dtype == np.uint8:
        return image
    samples = np.nan_to_num(image.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0).clip(min=0)
    largest = float(samples.max(initial=0.0))
    if image.dtype.kind == "f" and largest <= 1:
        return np.asarray(samples * 255 + 0.5, dtype=np.uint8)
    bits = next((bits for bits in (8, 10, 12, 14, 16) if largest < 1 << bits), None)
    scale = 2.0 ** (8 - bits) if bits is not None else 255 / largest
    return np.asarray(samples * scale, dtype=np.uint8)


def _opencv(data: bytes, flags: int) -> NDArray[Any] | None:
    """Decodes with OpenCV, which gives no reason where it cannot; damaged TIFF, BMP and PNM make it raise."""
    try:
        decoded: NDArray[Any] | None = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error:
        return None
    return decoded


def _decode_deep(data: bytes, channels: Channels) -> NDArray[Any] | None:
    """A file that may hold samples of more than 8 bits."""
    deep = _opencv(data, cv2.IMREAD_ANYDEPTH | cv2.IMREAD_ANYCOLOR)
    if deep is None or deep.dtype == np.uint8 or (deep.dtype == np.uint16 and deep.max(initial=0) >= 1 << 14):
        return _opencv(data, _FLAGS[channels])
    image = eight_bits(deep)
    if channels == "grey":
        return image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)
    return cv2.cvtColor(image, cv2.COLOR_GRAY2RGB if image.ndim == 2 else cv2.COLOR_BGR2RGB)


def _pillow(data: bytes, channels: Channels) -> NDArray[Any] | None:
    """Decodes with Pillow and the plugins that are installed; None where it cannot."""
    from PIL import Image as Pil
    from PIL import ImageOps

    _register_plugins()
    try:
        with Pil.open(io.BytesIO(data)) as image:
            upright = ImageOps.exif_transpose(image)
            return np.asarray(upright.convert("L" if channels == "grey" else "RGB"))
    except Exception:  # a decoder that meets a damaged file raises what it likes
        return None


@cache
def _register_plugins() -> None:
    """Teach Pillow the formats whose plugins are installed."""
    if find_spec("pillow_heif"):
        import_module("pillow_heif").register_heif_opener()
    if find_spec("pillow_jxl"):
        import_module("pillow_jxl")


def missing_plugin(suffix_or_kind: str) -> str | None:
    """The package that is needed to read files of a suffix or kind, and is not installed; None if there is none."""
    package = _PLUGINS.get(suffix_or_kind)
    return (
        package
        if package is not None and find_spec(package.replace("-", "_").removesuffix("_plugin")) is None
        else None
    )


def _why_not(data: bytes, kind: str) -> str:
    package = missing_plugin(kind)
    if package:
        return f"{kind} images need a decoder that is not installed; pip install {package}"
    end = _ENDS.get(kind)
    if end is not None and end not in data[-_TAIL:]:
        return f"the {kind} image is truncated or damaged"
    return f"the {kind} image is damaged or not supported"


def _size_in_header(data: bytes) -> tuple[int, int]:
    """Width and height without decoding; (-1, -1) where the header does not say."""
    try:
        width, height = imagesize.get(io.BytesIO(data))
    except Exception:  # damaged headers raise what they like
        width = height = -1
    return (int(width), int(height)) if width > 0 and height > 0 else _size_by_pillow(data)


def _size_by_pillow(data: bytes) -> tuple[int, int]:
    from PIL import Image as Pil

    _register_plugins()
    try:
        with Pil.open(io.BytesIO(data)) as image:  # reads the header only
            return image.size
    except Pil.DecompressionBombError:
        return _ENORMOUS
    except Exception:
        return -1, -1


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
    except Exception:  # damaged headers raise what they like
        return 0.0
    return width * height / 1e6 if width > 0 else 0.0


def upright_size(path: Path) -> tuple[int, int]:
    """Width and height of an image as ``read_image`` gives it, from the header where that says. Raises ImageError."""
    if path.suffix.lower() in (".jpg", ".jpeg"):
        from PIL import Image as Pil

        try:
            with Pil.open(path) as image:
                width, height = image.size
                return (height, width) if image.getexif().get(_ORIENTATION) in _LYING else (width, height)
        except Exception:  # damaged headers raise what they like
            pass
    height, width = read_image(path, "grey").shape
    return width, height


def moved(points: NDArray[Any], from_size: tuple[int, int], to_size: tuple[int, int]) -> NDArray[np.float32]:
    """Points (N, 2) x, y in pixels of an image of one size, in pixels of the same image at another size."""
    scale = np.array(to_size, np.float32) / np.maximum(from_size, 1).astype(np.float32)
    return ((points + np.float32(0.5)) * scale - np.float32(0.5)).astype(np.float32)


def turned_back(points: NDArray[F], turns: int, size: tuple[int, int]) -> NDArray[F]:
    """Points (N, 2) of an image that was turned by quarter turns counter-clockwise, in the image before that.

    ``size`` is width and height of the image before.
    """
    width, height = size
    for turn in range(turns % 4, 0, -1):
        # The image that this turn began with; it turned x, y into y, width - 1 - x.
        before = width if turn % 2 else height
        points = np.stack([before - 1 - points[:, 1], points[:, 0]], axis=1)
    return points


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

    An image that cannot be used comes back as its ImageError, so that the rows of the others never shift.
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
