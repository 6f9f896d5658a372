"""The page's server: a few files, and what the page asks for, as JSON.

The server keeps nothing of what it is sent: the page holds its pictures, ids and features.
"""

import dataclasses
import functools
import importlib.resources
import json
import logging
import pathlib
import socket
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

import uvicorn
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response, StreamingResponse
from pydantic import BaseModel, Field, StrictInt
from starlette.exceptions import HTTPException

from toklip_jax.app import drawing
from toklip_jax.app.guard import Guard
from toklip_jax.app.meaning import BATCH, MAX_LETTERS, MAX_PHRASES, Meaning, read_ids
from toklip_jax.app.models import Models
from toklip_jax.app.pictures import list_pictures, read_picture
from toklip_jax.app.worker import Busy, Worker
from toklip_jax.core.errors import UserError
from toklip_jax.core.printable import escaped, printable_lines
from toklip_jax.evaluation import prompt_sets

logger = logging.getLogger(__name__)

TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}
IMAGENET = 1000  # classes, whose names are known
Place = list[StrictInt]


@dataclasses.dataclass(frozen=True)
class Limits:
    """What the page may be given.

    Attributes:
        upload_mb: megabytes of one request, and so of one picture.
        files: pictures that the page holds.
    """

    upload_mb: int = 32
    files: int = 200

    def __post_init__(self):
        for field in dataclasses.fields(self):
            if getattr(self, field.name) < 1:
                flag = field.name.replace("_", "-")
                raise UserError(
                    f"expected --max-{flag} of at least 1, got {getattr(self, field.name)}"
                )


class Look(BaseModel):
    ids: list[Place]
    phrases: list[str] = Field([], max_length=MAX_PHRASES)


class Code(BaseModel):
    place: Place
    which: StrictInt = 0


class Drawn(BaseModel):
    condition: StrictInt | str
    seed: StrictInt = Field(0, ge=0, lt=2**32)


class Completed(BaseModel):
    ids: list[Place]
    seed: StrictInt = Field(0, ge=0, lt=2**32)


class Question(BaseModel):
    question: str = Field(max_length=drawing.MAX_QUESTION)
    ids: list[Place]
    picture: str | None = None


class FromFolder(BaseModel):
    start: StrictInt = Field(0, ge=0)


def build(
    models: Models,
    *,
    host: str = "127.0.0.1",
    limits: Limits | None = None,
    folder: str = "",
    class_names: str = "",
) -> Guard:
    """Returns the application, with all that it computes compiled.

    Args:
        host: the name that it is served under, besides this machine's own.
        folder: pictures of this machine that the page starts with.
        class_names: those of the generator's classes, as `evaluation.prompt_sets.class_names`
            takes them; without, ImageNet's for a thousand, and numbers for others.

    Raises:
        ValueError: a folder without pictures, or another number of names than of classes.
    """
    limits = limits or Limits()
    paths = list_pictures(folder, limits.files) if folder else []
    names = _class_names(models, class_names)
    meaning = Meaning(models)
    meaning.warm_up()
    drawing.warm_up(models)
    server = _Server(models, meaning, limits, paths, names)
    return Guard(server.app(), host, limits.upload_mb * 2**20)


def listening(host: str, port: int) -> socket.socket:
    """Returns a socket that listens; port 0 takes any that is free.

    Raises:
        ValueError: the address can't be used.
    """
    try:
        return socket.create_server((host, port), family=_family(host))
    except (OSError, OverflowError) as error:
        raise UserError(
            f"expected an address of this machine and a free port, got {host}:{port} ({error}): "
            f"pass another --host or --port"
        ) from error


def serve(app: Any, listener: socket.socket) -> None:
    """Serves the application until it is interrupted."""
    config = uvicorn.Config(app, log_level="warning", access_log=False, lifespan="off")
    uvicorn.Server(config).run(sockets=[listener])


class _Server:
    """The application's answers."""

    def __init__(
        self,
        models: Models,
        meaning: Meaning,
        limits: Limits,
        paths: list[pathlib.Path],
        classes: list[str],
    ):
        self.models, self.meaning, self.limits = models, meaning, limits
        self.paths, self.classes = paths, classes
        self.worker = Worker()
        self.from_folder = functools.lru_cache(limits.files)(self._from_folder)

    def app(self) -> FastAPI:
        app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
        for name, (content, kind) in _assets().items():
            # Nothing that a client names is ever looked for: these few are held in memory.
            page = functools.partial(_constant, content, kind)
            app.add_api_route(f"/{name}", page, response_model=None)
        app.add_api_route("/api/about", self.about, response_model=None)
        for route in (
            self.pictures, self.folder, self.look, self.code, self.draw, self.complete, self.ask
        ):  # fmt: skip
            path = f"/api/{route.__name__}"
            app.add_api_route(path, route, methods=["POST"], response_model=None)
        app.add_exception_handler(UserError, _told(422))
        app.add_exception_handler(RequestValidationError, _not_understood)
        app.add_exception_handler(HTTPException, _refused)
        app.add_exception_handler(Busy, _busy)
        app.add_exception_handler(Exception, _failed)
        return app

    async def about(self) -> dict[str, Any]:
        models, generator = self.models, self.models.generator
        gpt = generator and generator.config.gpt
        return {
            "model": repr(models.tokenizer),
            "grid": models.grid,
            "size": models.size,
            "codebooks": models.vq.codebook_sizes,
            "counts": self.meaning.counts,
            "hasMeaning": models.meaning is not None,
            "hasTexts": models.has_texts,
            "hasGenerator": generator is not None,
            "classes": self.classes,
            "drawsTexts": drawing.draws_texts(models),
            "sharesIds": models.generator_shares_ids,
            "generatorGrid": gpt and gpt.grid,
            "answers": models.answering is not None,
            "asksByIds": models.is_asked_by_ids,
            "maxPhrases": MAX_PHRASES,
            "maxLetters": MAX_LETTERS,
            "maxBytes": self.limits.upload_mb * 2**20,
            "maxFiles": self.limits.files,
            "batch": BATCH,
            "folder": len(self.paths),
        }

    async def pictures(self, request: Request) -> dict[str, Any]:
        async with request.form(max_files=BATCH, max_fields=0) as form:
            parts = [part for _, part in form.multi_items()]
            files = [await part.read() for part in parts if not isinstance(part, str)]
        return {"pictures": await self.worker.run(self._encoded, files)}

    async def folder(self, asked: FromFolder) -> dict[str, Any]:
        return {"pictures": await self.worker.run(self.from_folder, asked.start)}

    async def look(self, asked: Look) -> dict[str, Any]:
        if asked.phrases and not self.models.has_texts:
            raise UserError("expected TokLIP's weights with a text tokenizer, for phrases")
        for phrase in asked.phrases:
            if not 0 < len(phrase.strip()) <= MAX_LETTERS:
                raise UserError(f"expected phrases of 1 to {MAX_LETTERS} letters, got another")
        ids = read_ids(self.models, asked.ids)
        return await self.worker.run(self.meaning.look, ids, asked.phrases)

    async def code(self, asked: Code) -> dict[str, Any]:
        return await self.worker.run(self.meaning.code, asked.place, asked.which)

    async def draw(self, asked: Drawn) -> StreamingResponse:
        return await self._stream(drawing.draw, self.models, asked.condition, asked.seed)

    async def complete(self, asked: Completed) -> StreamingResponse:
        ids = read_ids(self.models, asked.ids)
        return await self._stream(drawing.complete, self.models, ids, asked.seed)

    async def ask(self, asked: Question) -> StreamingResponse:
        ids = read_ids(self.models, asked.ids)
        arguments = self.models, asked.question, ids, asked.picture
        return await self._stream(drawing.ask, *arguments)

    async def _stream(self, function, *args) -> StreamingResponse:
        """Items as JSON, one a line; what is wrong from the start is an error of its own."""
        items = await self.worker.run(function, *args)
        return StreamingResponse(self._lines(items), media_type="application/x-ndjson")

    async def _lines(self, items: Iterator[dict[str, Any]]) -> AsyncIterator[str]:
        try:
            async for item in self.worker.each(items):
                yield json.dumps(item) + "\n"
        except UserError as error:
            yield json.dumps({"error": printable_lines(str(error))}) + "\n"
        except Busy:
            yield json.dumps({"error": BUSY}) + "\n"
        except Exception:
            logger.exception("a drawing or an answer failed")
            yield json.dumps({"error": FAILED}) + "\n"

    def _encoded(self, files: Sequence[bytes | pathlib.Path]) -> list[dict[str, Any]]:
        """The pictures of files, in their order; those that can't be read say why."""
        images, problems = [], {}
        for place, file in enumerate(files):
            try:
                images.append(read_picture(file, self.models.size))
            except UserError as error:
                problems[place] = {"error": printable_lines(str(error))}
        encoded = iter(self.meaning.encode(images))
        return [problems.get(place) or next(encoded) for place in range(len(files))]

    def _from_folder(self, start: int) -> list[dict[str, Any]]:
        paths = self.paths[start : start + BATCH]
        found = self._encoded(paths)
        names = [escaped(path.name) for path in paths]
        return [{**one, "name": name} for one, name in zip(found, names, strict=True)]


BUSY = "expected a moment's patience: too many requests are waiting; try again"
FAILED = "the app failed: its terminal says where"


def _assets() -> dict[str, tuple[str, str]]:
    """The page's files and their types, by address; the page itself is at the root."""
    folder = importlib.resources.files("toklip_jax.app") / "assets"
    return {
        "" if file.name == "page.html" else file.name: (
            file.read_text(encoding="utf-8"),
            TYPES[pathlib.PurePath(file.name).suffix],
        )
        for file in folder.iterdir()
    }


def _class_names(models: Models, given: str) -> list[str]:
    """A name for each of the generator's classes; [] where there are none."""
    count = models.generator.config.gpt.num_classes if models.generator else 0
    if not given and count != IMAGENET:
        return [f"class {number}" for number in range(count)]
    names = list(prompt_sets.class_names(given or "imagenet").names)
    if len(names) != count:
        raise UserError(
            f"expected a name for each of the generator's {count} classes in --class-names, got "
            f"{len(names)}"
        )
    return names


async def _constant(content: str, kind: str) -> Response:
    return Response(content, media_type=kind)


def _family(host):
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def _told(status):
    async def tell(request: Request, error: Exception) -> JSONResponse:
        return JSONResponse({"error": printable_lines(str(error))}, status)

    return tell


async def _not_understood(request: Request, error: RequestValidationError) -> JSONResponse:
    first = error.errors()[0]
    where = ".".join(map(str, first["loc"][1:])) or "the request"
    return JSONResponse({"error": printable_lines(f"{where}: {first['msg']}")}, 422)


async def _refused(request: Request, error: HTTPException) -> JSONResponse:
    return JSONResponse({"error": printable_lines(str(error.detail))}, error.status_code)


async def _busy(request: Request, error: Exception) -> JSONResponse:
    return JSONResponse({"error": BUSY}, 503)


async def _failed(request: Request, error: Exception) -> JSONResponse:
    return JSONResponse({"error": FAILED}, 500)
