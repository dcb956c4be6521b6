"""Small JPEGs of a map's images: from the folder of the images, or kept of those that were added over HTTP."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from vpr.core import ImageError, ImageSet
from vpr.images import decode, read_image
from vpr.maps import StoredImage
from vpr.report.drawing import jpeg_bytes, thumbnail
from vpr.runtime.files import write_atomically

FOLDER = "thumbnails"  # in that of the map
LONGEST = 1024  # pixels, and the longer side of what is kept
QUALITY = 85  # of JPEG


class Thumbnails:
    """``images`` is the folder of the map's images, ``kept`` that of the JPEGs of added ones."""

    def __init__(self, images: Path | None, kept: Path, megapixels: float) -> None:
        self.images = images
        self.kept = kept
        self.megapixels = megapixels

    def exists(self, image: StoredImage) -> bool:
        """Whether there may be one; with a folder of images its file is not looked for."""
        return self.images is not None or self._path(image.id).is_file()

    def read(self, image: StoredImage, longest: int) -> bytes:
        """A JPEG whose longer side has at most ``longest`` pixels. Raises ImageError where there is no file."""
        if self._path(image.id).is_file():
            found = read_image(self._path(image.id), "rgb", self.megapixels)
        elif self.images is None:
            raise ImageError("this server has no image files; start it with --images DIR")
        else:
            found = read_image(ImageSet(self.images, (image.name,)).path(0), "rgb", self.megapixels)
        return jpeg_bytes(thumbnail(found, longest), QUALITY)

    def keep(self, number: int, data: bytes) -> None:
        """Keep the thumbnail of an added image, given the bytes of its file."""
        self.kept.mkdir(exist_ok=True)
        small = thumbnail(decode(data, "rgb", self.megapixels), LONGEST)
        write_atomically(self._path(number), jpeg_bytes(small, QUALITY))

    def forget(self, number: int) -> None:
        self._path(number).unlink(missing_ok=True)

    def sweep(self, is_known: Callable[[int], bool]) -> None:
        """Delete what is kept of images that are not known any more, by id."""
        for path in self.kept.glob("*.jpg"):
            if path.stem.isdigit() and not is_known(int(path.stem)):
                path.unlink(missing_ok=True)

    def _path(self, number: int) -> Path:
        return self.kept / f"{number}.jpg"
