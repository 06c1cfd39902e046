"""The routes of the search page, and what stands around them."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar
from urllib.parse import unquote_to_bytes

from starlette.applications import Starlette
from starlette.convertors import Convertor, register_url_convertor
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from ...errors import DataError, FewvitError, UsageError, printable
from ...images import BadImage
from ...sources import Notify
from .answers import answer, hit_of
from .api import described, described_hit, openapi
from .asking import MOST_EXAMPLES, Asked, Example, asked, pairs_of
from .forms import merged, read_form
from .guard import Doors, Guard
from .limits import BodyLimit, Busy, Gate, Limits
from .loaded import Loaded, Serving
from .pages import STATIC, Pages
from .thumbnails import THUMB, WHOLE, Picture, Thumbnails
from .uploads import Upload, Uploads
from .workers import Decoders

T = TypeVar("T")
_MOST_DIGITS = 20  # of a picture's number: more than any has
_FEATURES_ONLY = "this index was built of features, so it has no backbone to search an uploaded image with"


class _AnyText(Convertor[str]):
    """The rest of a path: Starlette's own stops at a line's end, and names do not."""

    regex = r"(?s:.*)"

    def convert(self, value: str) -> str:
        """The text itself."""
        return value

    def to_string(self, value: str) -> str:
        """The text itself."""
        return value


class Service:
    """What the routes share: the served index, the workers, and how many of them may be busy."""

    def __init__(self, serving: Serving, decoders: Decoders, limits: Limits, notify: Notify = lambda line: None):
        self.serving, self.decoders, self.limits, self.notify = serving, decoders, limits, notify
        self.uploads, self.thumbnails, self.pages = Uploads(), Thumbnails(decoders), Pages()
        self._searches = ThreadPoolExecutor(limits.concurrency, thread_name_prefix="search")
        self._pictures = ThreadPoolExecutor(2 * decoders.limits.workers, thread_name_prefix="picture")
        self._search_gate = Gate(limits.concurrency, limits.queue)
        self._picture_gate = Gate(limits.pictures, 0)

    async def search(self, work: Callable[..., T], *arguments: Any) -> T:
        """What a function that searches returns, in its turn. Raises Busy where too many wait."""
        async with self._search_gate():
            return await asyncio.get_running_loop().run_in_executor(self._searches, work, *arguments)

    async def picture(self, work: Callable[..., T], *arguments: Any) -> T:
        """What a function that makes a picture returns, in its turn. Raises Busy where too many wait."""
        async with self._picture_gate():
            return await asyncio.get_running_loop().run_in_executor(self._pictures, work, *arguments)

    def close(self) -> None:
        """End workers and threads."""
        self.decoders.close()
        self.serving.close()
        for pool in (self._searches, self._pictures):
            pool.shutdown(wait=False, cancel_futures=True)

    # ---- in a thread

    def with_uploads(self, loaded: Loaded, search: Asked, images: list[tuple[bool, bytes]]) -> Asked:
        """The search with uploaded images as further examples. Raises BadImage, NumericalError."""
        for is_wanted, data in images:
            search = search.with_example(Example(self._uploaded(loaded, data).token, is_wanted, True))
        if len(search.examples) > MOST_EXAMPLES:
            raise UsageError(f"{len(search.examples)} examples; a search takes at most {MOST_EXAMPLES}")
        return search

    def _uploaded(self, loaded: Loaded, data: bytes) -> Upload:
        """What is kept of an uploaded image; one that was here before is not computed again."""
        encoder = loaded.encoder
        if encoder is None:
            raise UsageError(_FEATURES_ONLY)
        token = self.uploads.token(data)
        known = self.uploads.get(token, encoder.fingerprint)
        if known is not None:
            return known
        pipeline = encoder.pipeline
        pixels, picture = self.decoders.pixels(data, pipeline.preprocess, pipeline.decode)
        upload = Upload(token, encoder.encode(pixels), picture, encoder.fingerprint)
        self.uploads.put(upload)
        return upload

    def page(self, loaded: Loaded, search: Asked) -> str:
        """The page of a search."""
        return self.pages.page(answer(loaded, search, self.uploads))

    def found(self, loaded: Loaded, search: Asked, images: list[tuple[bool, bytes]]) -> bytes:
        """The answer of a search as JSON. Raises DataError for an example that is not there."""
        found = answer(loaded, self.with_uploads(loaded, search, images), self.uploads)
        if found.lost:
            raise DataError(f"no image {printable(found.lost[0].name)} in this index or among the uploads")
        return _json(described(found))


def routes(service: Service) -> list[Route]:
    """What can be asked."""
    register_url_convertor("text", _AnyText())
    return [
        Route("/", _Home(service).get),
        Route("/search", _Home(service).post, methods=["POST"]),
        Route("/thumb/{number}", _Pictures(service, THUMB).get),
        Route("/image/{number}", _Pictures(service, WHOLE).get),
        Route("/example/{token}", _Pictures(service, THUMB).example),
        Route("/api/search", _Api(service).get),
        Route("/api/search", _Api(service).post, methods=["POST"]),
        Route("/api/item/{id:text}", _Api(service).item),
        Route("/openapi.json", _Api(service).document),
        Route("/static/{name}", _static),
    ]


def create_app(service: Service, doors: Doors) -> ASGIApp:
    """The whole server as an ASGI application."""

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        yield
        service.close()

    errors = _Errors(service)
    app = Starlette(
        routes=routes(service),
        exception_handlers={
            HTTPException: errors.http,
            Busy: errors.busy,
            BadImage: errors.image,
            FewvitError: errors.known,
            Exception: errors.unforeseen,
        },
        lifespan=lifespan,
    )
    return Guard(BodyLimit(app, service.limits), doors)


class _Home:
    """The page."""

    def __init__(self, service: Service):
        self._service = service

    async def get(self, request: Request) -> Response:
        pairs = pairs_of(request.scope["query_string"])
        if any(name == "state" for name, _ in pairs):
            return _to(merged(pairs))
        search, loaded = asked(pairs), await self._service.serving.current()
        return _html(await self._service.search(self._service.page, loaded, search))

    async def post(self, request: Request) -> Response:
        """Take images and show the address of the search that goes by them."""
        pairs, images = await read_form(request)
        search, loaded = merged(pairs), await self._service.serving.current()
        if loaded.encoder is None:
            raise HTTPException(400, _FEATURES_ONLY)
        if not images:
            raise HTTPException(400, "no image was chosen")
        return _to(await self._service.search(self._service.with_uploads, loaded, search, images))


class _Pictures:
    """Pictures, by numbers that the pages and answers give."""

    def __init__(self, service: Service, longest: int):
        self._service, self._longest = service, longest

    async def get(self, request: Request) -> Response:
        text = request.path_params["number"]
        known = text.isascii() and text.isdecimal() and len(text) <= _MOST_DIGITS
        where = self._service.serving.of_number(int(text)) if known else None
        if where is None:
            raise HTTPException(404, "no picture of that number")
        picture = await self._service.picture(self._service.thumbnails.picture, *where, self._longest)
        return _picture(request, picture)

    async def example(self, request: Request) -> Response:
        encoder = self._service.serving.now.encoder
        found = self._service.uploads.get(request.path_params["token"], encoder.fingerprint if encoder else "")
        if found is None:
            raise HTTPException(404, "this upload is not kept any more")
        return _picture(request, Picture(found.picture, "image/jpeg", found.token))


class _Api:
    """The same for programs."""

    def __init__(self, service: Service):
        self._service = service

    async def get(self, request: Request) -> Response:
        search = asked(pairs_of(request.scope["query_string"]))
        loaded = await self._service.serving.current()
        return _as_json(await self._service.search(self._service.found, loaded, search, []))

    async def post(self, request: Request) -> Response:
        pairs, images = await read_form(request)
        search = asked([*pairs_of(request.scope["query_string"]), *pairs])
        loaded = await self._service.serving.current()
        return _as_json(await self._service.search(self._service.found, loaded, search, images))

    async def item(self, request: Request) -> Response:
        raw = request.scope.get("raw_path", b"").partition(b"?")[0]
        name = unquote_to_bytes(raw.partition(b"/api/item/")[2]).decode("utf-8", "surrogateescape")
        loaded = await self._service.serving.current()
        return _as_json(_json(described_hit(await self._service.search(hit_of, loaded, name))))

    async def document(self, request: Request) -> Response:
        return _as_json(_json(openapi(self._service.limits.body)))


async def _static(request: Request) -> Response:
    data, kind = STATIC.get(request.path_params["name"], (b"", ""))
    if not kind:
        raise HTTPException(404, "no such page")
    return Response(data, media_type=kind, headers={"cache-control": "private, max-age=31536000, immutable"})


class _Errors:
    """Errors as pages, below /api as JSON: what was wrong, never where something lies."""

    def __init__(self, service: Service):
        self._service = service

    def http(self, request: Request, error: Exception) -> Response:
        status = error.status_code if isinstance(error, HTTPException) else 500
        reason = error.detail if isinstance(error, HTTPException) else ""
        return self._told(request, status, "there is no such page" if reason == "Not Found" else reason)

    def busy(self, request: Request, error: Exception) -> Response:
        response = self._told(request, 503, "too many searches at once; try again in a moment")
        response.headers["retry-after"] = "1"
        return response

    def image(self, request: Request, error: Exception) -> Response:
        return self._told(request, 400, f"this image cannot be used: {error}")

    def known(self, request: Request, error: Exception) -> Response:
        status = 400 if isinstance(error, UsageError) else 404 if isinstance(error, DataError) else 500
        return self._told(request, status, error.what if isinstance(error, FewvitError) else "")

    def unforeseen(self, request: Request, error: Exception) -> Response:
        return self._told(request, 500, "something went wrong here; the server's own output says what")

    def _told(self, request: Request, status: int, reason: str) -> Response:
        if request.url.path.startswith("/api/"):
            return _as_json(_json({"error": reason}), status)
        return _html(self._service.pages.error(status, reason), status)


# ---- responses


def _to(search: Asked) -> Response:
    return RedirectResponse(f"/?{search.query}" if search.query else "/", status_code=303)


def _html(text: str, status: int = 200) -> Response:
    return Response(text, status, media_type="text/html", headers={"cache-control": "no-store"})


def _json(value: Any) -> bytes:
    """JSON in ASCII: an id with odd bytes stays what it is."""
    return json.dumps(value).encode()


def _as_json(data: bytes, status: int = 200) -> Response:
    return Response(data, status, media_type="application/json", headers={"cache-control": "no-store"})


def _picture(request: Request, picture: Picture) -> Response:
    """A picture; asked again, the browser hears that it has it already."""
    if picture.is_placeholder:
        return Response(picture.data, 404, media_type=picture.kind, headers={"cache-control": "no-store"})
    headers = {"etag": f'"{picture.tag}"', "cache-control": "private, no-cache"}
    if request.headers.get("if-none-match") == headers["etag"]:
        return Response(status_code=304, headers=headers)
    return Response(picture.data, media_type=picture.kind, headers=headers)
