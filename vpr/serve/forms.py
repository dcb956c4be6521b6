"""Multipart forms with one image: read up to a limit of bytes and seconds, and checked field by field."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator, Collection, Mapping, Sequence
from dataclasses import dataclass

from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

from vpr.serve.limits import Limits
from vpr.serve.problems import RequestProblem

IMAGE = "image"  # the field of the image
_TEXT_BYTES = 10_000  # of one field


@dataclass(frozen=True)
class Form:
    """What was sent."""

    image: bytes
    filename: str  # as the sender names the image; "" if not at all
    fields: Mapping[str, str]  # that are not empty

    def number(self, name: str) -> float | None:
        """The number in a field, None if there is none; raises a problem for what is no finite number."""
        text = self.fields.get(name)
        if text is None:
            return None
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise RequestProblem(422, f"{name} = {text[:80]!r}: give a number", "ConfigError")
        return value

    def whole(self, name: str, default: int, most: int) -> int:
        """The whole number from 1 to ``most`` in a field; raises a problem for anything else."""
        text = self.fields.get(name, str(default))
        if not (text.isascii() and text.isdigit() and len(text) < 10 and 1 <= int(text) <= most):
            raise RequestProblem(422, f"{name} = {text[:80]!r}: give a whole number from 1 to {most}", "ConfigError")
        return int(text)

    def degrees(self) -> tuple[float, float] | None:
        """Latitude and longitude in the fields lat and lon; None without them. Raises a problem for one alone."""
        latitude, longitude = self.number("lat"), self.number("lon")
        if latitude is None and longitude is None:
            return None
        if latitude is None or longitude is None:
            raise RequestProblem(422, "lat or lon alone is no place; give both, in degrees", "ConfigError")
        return latitude, longitude


async def read_form(
    request: Request, limits: Limits, known: Collection[str], *, image: str = IMAGE, in_address: bool = False
) -> Form:
    """The form of a request; raises a problem for one that is too large, too slow, or has unknown or missing fields.

    ``image`` is the field of the image. With ``in_address`` fields may be given in the address, too.
    """
    if request.query_params and not in_address:
        raise RequestProblem(422, "give every field in the form, none in the address", "ConfigError")
    if not request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
        raise RequestProblem(415, f"send multipart/form-data with the image in the field {image!r}")
    length = request.headers.get("content-length", "")
    if length.isascii() and length.isdigit() and int(length[:20]) > limits.upload_bytes:
        raise _too_large(limits)
    parser = MultiPartParser(
        request.headers, _counted(request, limits), max_files=1, max_fields=len(known) + 1, max_part_size=_TEXT_BYTES
    )
    try:
        async with asyncio.timeout(limits.seconds):
            return await _checked(parser, known, image, request.query_params.multi_items())
    except TimeoutError:
        raise RequestProblem(408, f"the request was not sent within {limits.seconds:g} s") from None
    except MultiPartException as error:
        hint = f"; send the image as a file, for instance -F {image}=@photo.jpg" if "size" in error.message else ""
        raise RequestProblem(422, f"the form cannot be read: {error.message.rstrip('.')}{hint}") from None
    except ClientDisconnect:
        raise RequestProblem(400, "the request ended before its body") from None


async def _counted(request: Request, limits: Limits) -> AsyncGenerator[bytes, None]:
    received = 0
    async for chunk in request.stream():
        received += len(chunk)
        if received > limits.upload_bytes:
            raise _too_large(limits)
        yield chunk


async def _checked(
    parser: MultiPartParser, known: Collection[str], image_field: str, in_address: Sequence[tuple[str, str]]
) -> Form:
    try:
        form = await parser.parse()
    except KeyError:  # of a header without a boundary
        raise RequestProblem(422, "the form cannot be read: its header names no boundary") from None
    try:
        image, fields = None, {}
        for name, value in [*form.multi_items(), *in_address]:
            if name != image_field and name not in known:
                raise RequestProblem(
                    422, f"unknown field {name[:80]!r}; known: {', '.join((image_field, *known))}", "ConfigError"
                )
            if isinstance(value, UploadFile) != (name == image_field):
                expected = "the bytes of an image, as a file" if name == image_field else "text, not a file"
                raise RequestProblem(422, f"field {name!r}: expected {expected}")
            if name in fields:
                raise RequestProblem(422, f"field {name!r} is given twice", "ConfigError")
            if isinstance(value, UploadFile):
                image = value
            elif value.strip():
                fields[name] = value.strip()
        if image is None:
            raise RequestProblem(422, f"no field {image_field!r}; send the image in it, as a file")
        return Form(await image.read(), image.filename or "", fields)
    finally:
        await form.close()


def _too_large(limits: Limits) -> RequestProblem:
    return RequestProblem(
        413, f"the request has more than {limits.upload_bytes / 1e6:g} MB; send a smaller image", "ImageError"
    )
