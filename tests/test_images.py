from __future__ import annotations

import io
import struct
import threading
import time
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import textured, write_picture
from PIL import Image as Pil

from vpr.core import ImageError
from vpr.images import SUFFIXES, decode, eight_bits, fitted_size, in_order, read_image, resize, size_between


def with_orientation(jpeg: bytes, orientation: int) -> bytes:
    """The JPEG with an EXIF block that holds only the orientation."""
    tiff = b"MM\x00*\x00\x00\x00\x08" + struct.pack(">HHHIHHI", 1, 0x0112, 3, 1, orientation, 0, 0)
    body = b"Exif\x00\x00" + tiff
    return jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body + jpeg[2:]


def png_of_size(width: int, height: int) -> bytes:
    """A PNG header that promises a size, without pixels."""
    chunk = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))


@pytest.mark.parametrize(
    ("orientation", "turn"),
    [(1, lambda a: a), (3, lambda a: a[::-1, ::-1]), (6, lambda a: np.rot90(a, -1)), (8, lambda a: np.rot90(a, 1))],
)
def test_exif_orientation_is_honoured(orientation: int, turn) -> None:
    _, data = cv2.imencode(".jpg", textured(1, 64, 96), [cv2.IMWRITE_JPEG_QUALITY, 100])
    upright = decode(data.tobytes(), "grey")
    assert np.array_equal(decode(with_orientation(data.tobytes(), orientation), "grey"), turn(upright))


def test_colours_come_as_rgb_and_grey_as_opencv_decodes_it(tmp_path: Path) -> None:
    red = np.zeros((8, 8, 3), np.uint8)
    red[..., 0] = 250
    path = write_picture(tmp_path / "red.png", red)
    assert np.array_equal(read_image(path, "rgb"), red)
    jpeg = write_picture(tmp_path / "a.jpg", textured(3))
    assert np.array_equal(read_image(jpeg, "grey"), cv2.imread(str(jpeg), cv2.IMREAD_GRAYSCALE))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "the file is empty"),
        (b"hello", "not an image"),
        (b"<html></html>" * 50, "not an image"),
        (b"\xff\xd8\xff" + b"0" * 500, "not an image|damaged"),
        (png_of_size(20000, 20000), "more than 100 megapixels"),
        (png_of_size(20, 20), "truncated or damaged"),
    ],
)
def test_a_bad_image_is_named_with_the_reason(tmp_path: Path, data: bytes, reason: str) -> None:
    path = tmp_path / "bad é.jpg"
    path.write_bytes(data)
    with pytest.raises(ImageError, match=reason) as caught:
        read_image(path, "rgb")
    assert "bad é.jpg" in str(caught.value)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".bmp", ".webp", ".tif", ".ppm", ".gif", ".jp2", ".avif"])
def test_a_truncated_image_is_never_returned(tmp_path: Path, suffix: str) -> None:
    path = write_picture(tmp_path / f"a{suffix}", textured(2))
    whole = path.read_bytes()
    assert read_image(path, "rgb").shape == (120, 160, 3)
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ImageError):
        read_image(path, "rgb")


def test_a_size_that_no_header_says_is_refused_before_decoding(tmp_path: Path) -> None:
    """A Radiance HDR and a PFM called .jpg: OpenCV would decode them, whatever their size."""
    header = b"#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n\n-Y 40000 +X 40000\n"
    row = b"\x02\x02\x9c\x40" + b"\xff\x01" * 1260
    whole = write_hdr(tmp_path / "small.hdr")
    for data in (header + row * 4, b"PF\n40000 40000\n-1.0\n" + b"0" * 99, whole):
        with pytest.raises(ImageError, match="not an image, or in a format that cannot be read"):
            decode(data, "rgb")


def write_hdr(path: Path) -> bytes:
    _, data = cv2.imencode(".hdr", textured(1, 20, 30).astype(np.float32) / 255)
    assert cv2.imdecode(data, cv2.IMREAD_COLOR) is not None
    return data.tobytes()


@pytest.mark.parametrize("suffix", [".tif", ".bmp", ".pgm", ".png", ".jpg", ".webp", ".gif", ".jp2"])
def test_damaged_bytes_end_in_an_error_that_names_the_image(suffix: str) -> None:
    """OpenCV raises its own error at some of them."""
    image = textured(2, 40, 60)[..., 0] if suffix == ".pgm" else textured(2, 40, 60)
    whole = np.frombuffer(cv2.imencode(suffix, image)[1].tobytes(), np.uint8)
    random = np.random.default_rng(0)
    for _ in range(60):
        data = whole.copy()
        data[random.integers(0, min(len(data), 300), 6)] = random.integers(0, 256, 6)
        try:
            assert decode(data.tobytes(), "grey").ndim == 2
        except ImageError as error:
            assert str(error).startswith("image: ")


def test_an_error_of_opencv_is_not_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise cv2.error("OpenCV(5.0.0) grfmt_tiff.cpp:1: error")

    monkeypatch.setattr("vpr.images.cv2.imdecode", refuse)
    with pytest.raises(ImageError, match=r"bad\.tif: the TIFF image is damaged or not supported"):
        decode(cv2.imencode(".tif", textured(1))[1].tobytes(), "rgb", name="bad.tif")


@pytest.mark.parametrize("suffix", [".gif", ".jp2", ".avif"])
def test_formats_beyond_the_common_ones_are_read(suffix: str, tmp_path: Path) -> None:
    image = cv2.GaussianBlur(textured(4), (9, 9), 0)
    path = write_picture(tmp_path / f"a{suffix}", image)
    read = read_image(path, "rgb")
    assert read.shape == image.shape
    assert np.abs(read.astype(int) - image).mean() < (20 if suffix == ".gif" else 6)  # 256 colours
    assert read_image(path, "grey").shape == image.shape[:2]


@pytest.mark.parametrize("suffix", [".gif", ".jp2", ".avif"])
def test_pillow_reads_what_opencv_was_built_without(suffix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    image = cv2.GaussianBlur(textured(4), (9, 9), 0)
    data = cv2.imencode(suffix, image[..., ::-1])[1].tobytes()
    by_opencv = decode(data, "rgb")
    monkeypatch.setattr("vpr.images.cv2.haveImageWriter", lambda name: False)
    monkeypatch.setattr("vpr.images.cv2.imdecode", None)
    by_pillow = decode(data, "rgb")
    assert np.abs(by_pillow.astype(int) - by_opencv).mean() < 3
    assert decode(data, "grey").shape == image.shape[:2]
    with pytest.raises(ImageError, match="image is damaged or not supported"):
        decode(data[: len(data) // 2], "rgb")


@pytest.mark.parametrize(("plugin", "kind"), [("pillow_heif", "HEIF"), ("pillow_jxl", "JXL")])
def test_formats_of_plugins_are_read_where_the_plugin_is_installed(plugin: str, kind: str) -> None:
    module = pytest.importorskip(plugin)
    if kind == "HEIF":
        module.register_heif_opener()
    image, file = cv2.GaussianBlur(textured(4), (9, 9), 0), io.BytesIO()
    Pil.fromarray(image).save(file, kind)
    assert np.abs(decode(file.getvalue(), "rgb").astype(int) - image).mean() < 6
    with pytest.raises(ImageError, match=r"more than 0\.01 megapixels"):
        decode(file.getvalue(), "rgb", 0.01)


@pytest.mark.parametrize("suffix", [".jpe", ".jfif"])
def test_other_names_of_jpeg_are_jpeg(suffix: str, tmp_path: Path) -> None:
    path = write_picture(tmp_path / "a.jpg", textured(4))
    assert np.array_equal(
        read_image(path.rename(tmp_path / f"a{suffix}"), "rgb"),
        decode(cv2.imencode(".jpg", textured(4)[..., ::-1])[1].tobytes(), "rgb"),
    )
    assert suffix in SUFFIXES


def test_what_is_not_supported_is_not_called_truncated() -> None:
    whole = cv2.imencode(".jpg", textured(1))[1].tobytes()
    unsupported = bytearray(whole)
    frame = whole.index(b"\xff\xc0")
    unsupported[frame + 1] = 0xC3  # a lossless JPEG
    with pytest.raises(ImageError, match="the JPEG image is damaged or not supported"):
        decode(bytes(unsupported), "rgb")
    with pytest.raises(ImageError, match="the JPEG image is truncated or damaged"):
        decode(whole[:-300], "rgb")
    with pytest.raises(ImageError, match=r"HEIC images need a decoder that is not installed|HEIC image is damaged"):
        decode(b"\x00\x00\x00\x18ftypheic" + b"\x00" * 99, "rgb")


@pytest.mark.parametrize("suffix", [".png", ".tif", ".pgm"])
@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
def test_sixteen_bit_images_are_scaled_by_the_bits_they_use(suffix: str, bits: int) -> None:
    image = textured(5)[..., 0]
    image[0, 0] = 255
    samples = image.astype(np.uint16) << (bits - 8)
    data = cv2.imencode(suffix, samples)[1].tobytes()
    assert np.array_equal(decode(data, "grey"), image)
    assert np.array_equal(decode(data, "rgb"), np.repeat(image[..., None], 3, 2))


@pytest.mark.parametrize("largest", [1.0, 255.0, 65535.0])
def test_floating_point_tiff_is_read(largest: float) -> None:
    image = textured(5)
    image[0, 0] = 255
    data = cv2.imencode(".tif", (image[..., ::-1] / 255 * largest).astype(np.float32))[1].tobytes()
    assert np.abs(decode(data, "rgb").astype(int) - image).max() <= 1
    assert decode(data, "grey").shape == image.shape[:2]


def test_samples_that_are_no_numbers_are_black() -> None:
    assert eight_bits(np.array([[np.nan, -1.0, 0.5, 1.0]], np.float32)).tolist() == [[0, 0, 128, 255]]
    assert eight_bits(np.zeros((0, 3), np.uint16)).shape == (0, 3)


def test_missing_files_and_folders_are_not_images(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="no such image"):
        read_image(tmp_path / "absent.jpg", "grey")
    with pytest.raises(ImageError, match="not a file but a folder"):
        read_image(tmp_path, "grey")


def test_sizes_by_hand() -> None:
    assert fitted_size(1280, 960, longest=640) == (640, 480)
    assert fitted_size(320, 240, longest=640) == (320, 240)
    assert fitted_size(320, 240, longest=640, enlarge=True) == (640, 480)
    assert fitted_size(1280, 960, shortest=480) == (640, 480)
    assert fitted_size(641, 479, multiple_of=8) == (640, 472)
    assert fitted_size(10000, 1, longest=100) == (100, 1)
    assert fitted_size(3, 3, multiple_of=8) == (8, 8)


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((320, 240), (320, 240)),
        ((1280, 960), (640, 480)),
        ((64, 32), (240, 120)),
        ((32, 64), (120, 240)),
        ((160, 119), (161, 120)),
        ((300, 20), (640, 43)),  # a strip: its shorter side would need 1800 x 120
        ((1000, 150), (640, 96)),
    ],
)
def test_sides_are_kept_between_two_lengths(size: tuple[int, int], expected: tuple[int, int]) -> None:
    assert size_between(*size, shortest=120, longest=640) == expected


def test_shrinking_averages_areas() -> None:
    checkerboard = (np.indices((64, 64)).sum(axis=0) % 2 * 255).astype(np.uint8)
    small = resize(checkerboard, (32, 32))
    assert small.shape == (32, 32) and np.all(np.abs(small.astype(int) - 127) <= 1)
    assert resize(small, (32, 32)) is small


def test_results_come_in_order_and_errors_keep_their_place() -> None:
    def prepare(row: int) -> int:
        time.sleep(0.002 * (row % 3))
        if row == 4:
            raise ImageError("fourth")
        return row * 10

    results = dict(in_order(prepare, range(9), threads=3))
    assert list(results) == list(range(9))
    assert isinstance(results.pop(4), ImageError)
    assert results == {row: row * 10 for row in results}


def test_reading_ahead_is_bounded_and_stops_with_the_consumer() -> None:
    started: list[int] = []
    results = in_order(started.append, range(1000), threads=2, ahead=5)
    next(results)
    time.sleep(0.05)
    assert len(started) <= 8
    results.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("images")]


def test_other_errors_are_not_swallowed() -> None:
    def broken(row: int) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        list(in_order(broken, range(3), threads=2))
