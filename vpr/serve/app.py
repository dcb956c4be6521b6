"""The endpoints. Importing this file needs the extra ``serve``."""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, FastAPI, Path, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, Response
from starlette.exceptions import HTTPException

from vpr.core import VprError
from vpr.serve import forms
from vpr.serve.endpoints_page import endpoints_page
from vpr.serve.metrics import Measured, Metrics
from vpr.serve.overview import WORLD
from vpr.serve.page_files import MEDIA_TYPES, content_policy, page_files
from vpr.serve.problems import MEDIA_TYPE, RequestProblem, body_of, busy, of_http, of_validation
from vpr.serve.service import PAIR, QUESTION, RANK, RECORD, Service
from vpr.serve.thumbnails import LONGEST
from vpr.serve.worker import Worker

T = TypeVar("T")
ImageId = Annotated[int, Path(ge=1, le=2**53, description="id of an image")]
Box = Annotated[str, Query(description="west,south,east,north in degrees; everywhere by default")]
FeatureLimit = Annotated[int, Query(ge=4, le=10_000, description="most features of the answer")]
Longest = Annotated[int, Query(ge=16, le=LONGEST, description="most pixels of the longer side")]

router = APIRouter()


def create_app(service: Service) -> FastAPI:
    """The ASGI application of a map."""
    from vpr import __version__

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        service.close()

    app = FastAPI(
        title="vpr",
        version=__version__,
        description="Where was this photograph taken?",
        docs_url=None,  # that page asks another host for its scripts
        redoc_url=None,
        redirect_slashes=False,
        lifespan=lifespan,
    )
    app.state.service, app.state.metrics = service, Metrics(service)
    app.add_middleware(Measured, metrics=app.state.metrics)
    app.include_router(router)
    _answer_errors(app, service)
    return app


@router.get("/", include_in_schema=False)
def page(request: Request) -> Response:
    policy = {"Content-Security-Policy": content_policy(_service(request).tiles), "Cache-Control": "no-cache"}
    return HTMLResponse(page_files()["index.html"].read_bytes(), headers=policy)


@router.get("/page/settings.json", include_in_schema=False)
def page_settings(request: Request) -> JSONResponse:
    return JSONResponse(_service(request).page_settings())


@router.get("/page/{name:path}", include_in_schema=False)
def page_file(name: str) -> Response:
    found = page_files().get(name)
    if found is None:
        raise HTTPException(404)
    headers = {"Cache-Control": "no-cache"}
    return Response(found.read_bytes(), media_type=MEDIA_TYPES[found.suffix], headers=headers)


def _form(fields: dict[str, str], name: str = forms.IMAGE) -> dict[str, Any]:
    """The form of a request, for the description of the endpoints."""
    image = {name: {"type": "string", "format": "binary"}}
    texts = {field: {"type": "string", "description": about} for field, about in fields.items()}
    schema = {"type": "object", "required": [name], "properties": {**image, **texts}}
    return {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": schema}}}}


_PLACE = {"lat": "latitude in degrees", "lon": "longitude in degrees"}
_QUESTION = {
    **_PLACE,
    "radius_m": "metres around lat, lon",
    "since": "ISO 8601: only images from then on",
    "until": "ISO 8601: only images until then",
    "k": "candidates in the answer",
    "rotations": "degrees at which the photograph is tried: 0,90,180,270; 0 by default",
}
FILE = "file"  # the field of the image at /do_ranking/
_PAIR = {"id": "of an image of the map"}
_RECORD = {
    **_PLACE,
    "name": "of the image in the map; else that of the file",
    "heading": "degrees clockwise from north",
    "time": "ISO 8601",
    "group": "images of one panorama or drive share it",
}


@router.post("/v1/locate", openapi_extra=_form(_QUESTION))
async def locate(request: Request) -> JSONResponse:
    """Where a photograph was taken: position, probability, candidates."""
    service = _service(request)
    service.worker.require_room()  # before a body is read in vain
    form = await forms.read_form(request, service.limits, QUESTION)
    return JSONResponse(await _in_time(request, service.worker, lambda: service.answer(form)))


@router.post("/do_ranking/", openapi_extra=_form({"rank": "candidates in the answer, 2 by default"}, FILE))
async def do_ranking(request: Request) -> JSONResponse:
    """The images most like a photograph, as the place_recognition_api of SuperGlue-for-VPR is asked for them."""
    service = _service(request)
    service.worker.require_room()
    form = await forms.read_form(request, service.limits, RANK, image=FILE, in_address=True)
    return JSONResponse(await _in_time(request, service.worker, lambda: service.ranking(form)))


@router.post("/v1/matches", openapi_extra=_form(_PAIR))
async def matches(request: Request) -> JSONResponse:
    """The matches of a photograph with one image of the map."""
    service = _service(request)
    service.worker.require_room()
    form = await forms.read_form(request, service.limits, PAIR)
    return JSONResponse(await _in_time(request, service.worker, lambda: service.matches(form)))


@router.post("/v1/images", status_code=201, openapi_extra=_form(_RECORD))
async def add_image(request: Request) -> JSONResponse:
    """Add an image to the map; needs the token."""
    service = _service(request)
    _require_token(request, service)
    service.worker.require_room()
    form = await forms.read_form(request, service.limits, RECORD)
    image, is_new = await _in_time(request, service.worker, lambda: service.add(form))
    return JSONResponse(service.record_json(image), 201 if is_new else 200, {"Location": f"/v1/images/{image.id}"})


@router.get("/v1/images/{number}")
def image_record(request: Request, number: ImageId) -> JSONResponse:
    """What the map knows of an image."""
    service = _service(request)
    return JSONResponse(service.record_json(service.record(number)))


@router.get("/v1/images/{number}/thumbnail", response_class=Response)
async def thumbnail(request: Request, number: ImageId, longest: Longest = 320) -> Response:
    """A small JPEG of an image, where the server has the folder of the images or the image was added over HTTP."""
    service = _service(request)
    data = await _in_time(request, service.reader, lambda: service.thumbnail(number, longest))
    return Response(data, media_type="image/jpeg", headers={"Cache-Control": "private, max-age=3600"})


@router.get("/v1/map")
async def map_overview(request: Request, bbox: Box = WORLD, limit: FeatureLimit = 1000) -> JSONResponse:
    """The images as GeoJSON; where a box has more than `limit`, clusters with their counts."""
    service = _service(request)
    found = await _in_time(request, service.reader, lambda: service.overview(bbox, limit))
    return JSONResponse(found, media_type="application/geo+json")


@router.delete("/v1/images/{name:path}", status_code=204)
async def remove_image(request: Request, name: str) -> Response:
    """Remove an image by name; needs the token."""
    service = _service(request)
    _require_token(request, service)
    await _in_time(request, service.worker, lambda: service.remove(name))
    return Response(status_code=204)


@router.get("/healthz")
def health(request: Request) -> JSONResponse:
    """Whether the map can be read."""
    return JSONResponse({"status": "ok", "images": len(_service(request).map)})


@router.get("/metrics")
def metrics(request: Request) -> Response:
    """Counts and times of requests, for Prometheus."""
    text = request.app.state.metrics.text()
    return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")


@router.get("/docs", include_in_schema=False)
def docs(request: Request) -> HTMLResponse:
    policy = {"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'"}
    return HTMLResponse(endpoints_page(request.app.openapi()), headers=policy)


def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


def _require_token(request: Request, service: Service) -> None:
    """Raise a problem unless the request comes with the token."""
    if service.token is None:
        raise RequestProblem(
            403, "this server changes no map; start it with --token-file FILE, or with VPR_TOKEN", "ConfigError"
        )
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not hmac.compare_digest(given.strip().encode(), service.token.encode()):
        raise RequestProblem(
            401,
            "this needs the token of the server: Authorization: Bearer TOKEN",
            "ConfigError",
            {"WWW-Authenticate": "Bearer"},
        )


async def _in_time(request: Request, worker: Worker, job: Callable[[], T]) -> T:
    """The result of a job; a job that still waits when time is over, or when the client goes away, never runs."""
    seconds = _service(request).limits.seconds
    task = worker.start(job)
    gone = asyncio.create_task(_gone(request))
    try:
        await asyncio.wait({task, gone}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
    finally:
        gone.cancel()
        task.cancel()
    if gone.done():
        raise RequestProblem(400, "the client went away")
    raise busy(f"no answer within {seconds:g} s; ask again in some seconds")


async def _gone(request: Request) -> None:
    """Ends when the client closes the connection; the body has been read before."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _answer_errors(app: FastAPI, service: Service) -> None:
    """Every error is a problem+json."""

    def respond(problem: RequestProblem) -> JSONResponse:
        return JSONResponse(body_of(problem), problem.status, problem.headers, media_type=MEDIA_TYPE)

    @app.exception_handler(RequestProblem)
    async def refused(_: Request, error: RequestProblem) -> JSONResponse:
        return respond(error)

    @app.exception_handler(HTTPException)
    async def http(_: Request, error: HTTPException) -> JSONResponse:
        problem = of_http(error.status_code, str(error.detail))
        problem.headers.update(error.headers or {})
        return respond(problem)

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        return respond(of_validation(error.errors()))

    @app.exception_handler(VprError)
    async def of_the_map(_: Request, error: VprError) -> JSONResponse:
        return respond(service.failed(error))

    @app.exception_handler(Exception)
    async def defect(_: Request, error: Exception) -> JSONResponse:
        return respond(service.failed(error))
