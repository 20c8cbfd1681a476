"""The application: routes, errors and OpenAPI, put together."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib import metadata

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException

from backend.api import applications, chats, health, messages, pages, problems
from backend.api.service import open_service
from backend.errors import InstaChatError
from backend.settings import Settings

PREFIX = "/api/v1"


def create_app(settings: Settings) -> FastAPI:
    """The ASGI application; its engines are opened when the server starts it."""

    @asynccontextmanager
    async def living(app: FastAPI) -> AsyncIterator[None]:
        async with open_service(settings) as app.state.service:
            yield

    app = FastAPI(
        title="InstaChat",
        version=metadata.version("instachat"),
        description="Chats whose numbers are given at once and whose messages are never lost.",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        generate_unique_id_function=_name,
        lifespan=living,
        exception_handlers={
            InstaChatError: _of_the_core,
            RequestValidationError: _of_validation,
            HTTPException: _of_routing,
            Exception: _unexpected,
        },
    )
    api = APIRouter(prefix=PREFIX)
    for noun in (applications, chats, messages):
        api.include_router(noun.router)
    app.include_router(api)
    app.include_router(health.router)
    app.include_router(pages.router)
    return app


def _name(route: APIRoute) -> str:
    return route.name


async def _of_the_core(_: Request, error: Exception) -> Response:
    assert isinstance(error, InstaChatError)
    return problems.response(*problems.of(error))


async def _of_validation(_: Request, error: Exception) -> Response:
    """A path that can't be is not found, a body that is not JSON is 400, all else is invalid."""
    assert isinstance(error, RequestValidationError)
    found = error.errors()
    if any(each["loc"][0] == "path" for each in found):
        return problems.response(problems.NOT_FOUND)
    if any(each["type"] == "json_invalid" for each in found):
        return problems.response(problems.NOT_JSON)
    # Never the input itself: it may be a text.
    said = (f"{'.'.join(map(str, each['loc'][1:])) or 'body'}: {each['msg']}" for each in found[:5])
    return problems.response(problems.INVALID, "; ".join(said))


async def _of_routing(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    match error.status_code:
        case 404:
            return problems.response(problems.NOT_FOUND)
        case 405:
            return problems.response(problems.METHOD, **(error.headers or {}))
        case 400:
            return problems.response(problems.NOT_JSON)
    return problems.response(problems.FAULT)


async def _unexpected(_: Request, __: Exception) -> Response:
    return problems.response(problems.FAULT)
