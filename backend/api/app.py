"""The application: routes, error handlers and OpenAPI, put together."""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http import HTTPStatus
from importlib import metadata
from typing import Any

from fastapi import Depends, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute, iter_route_contexts
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import Match

from backend.api import openapi, problems
from backend.api.lifespan import open_service
from backend.api.parameters import refuse_unknown_parameters
from backend.api.problems import ProblemException
from backend.api.routes import (
    applications,
    chats,
    docs,
    messages,
    probes,
    reindex,
    search,
    status_page,
    stream,
)
from backend.domain.errors import InstaChatError
from backend.settings import Settings

DESCRIPTION = """\
Applications have chats, and chats have messages. Both are numbered 1, 2, 3 … within their parent. The server
returns the number of a new chat or message as soon as it is in the log, and stores it a moment later.

Until then, reading it returns `202`. Errors are problems as RFC 9457 defines them.

`/api/v1/application` stands for `/api/v1/applications/{token}` on every route: it takes the token from
`Authorization: Bearer`, so that no proxy logs it.
"""
EXPOSED_HEADERS = ["ETag", "Retry-After", "X-Request-Id"]
logger = logging.getLogger(__name__)


def create_app(settings: Settings) -> FastAPI:
    """The application. It opens its engines when the server starts it."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        try:
            async with open_service(settings) as app.state.service:
                yield
        except Exception:
            logger.exception("a process of the server failed to start or to stop")
            raise

    app = FastAPI(
        title="InstaChat",
        version=metadata.version("instachat"),
        description=DESCRIPTION,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        generate_unique_id_function=_operation_id,
        lifespan=lifespan,
        exception_handlers={
            InstaChatError: _handle_core_error,
            RequestValidationError: _handle_validation_error,
            HTTPException: _handle_http_exception,
        },
    )
    api = [
        applications.router,
        chats.router,
        stream.router,  # this and the next before `messages/{number}`
        messages.batch_router,
        messages.router,
        search.router,
    ]
    if settings.admin_token is not None:
        api += [applications.operator_router, reindex.router]
    else:  # POST exists on that path, so without this GET would be a 405
        api.append(applications.no_operator_router)
    for router in api:
        app.include_router(router, dependencies=[Depends(refuse_unknown_parameters)])
    app.include_router(applications.no_token_router)
    app.include_router(probes.router)
    app.include_router(probes.metrics_router)
    app.include_router(status_page.router)
    app.include_router(docs.router)
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins.split(","),
            allow_methods=["GET", "POST", "PATCH", "DELETE"],
            allow_headers=[
                "Authorization",
                "Content-Type",
                "Idempotency-Key",
                "If-Match",
                "If-None-Match",
                "Last-Event-ID",
                "X-Request-Id",
            ],
            expose_headers=EXPOSED_HEADERS,
        )
    app.openapi = lambda: openapi.build_schema(app)  # type: ignore[method-assign]  # as FastAPI documents
    return app


def _operation_id(route: APIRoute) -> str:
    return route.name


async def _handle_core_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, InstaChatError)
    return problems.error_response(error, request.scope["instachat.request_id"])


async def _handle_validation_error(_: Request, error: Exception) -> Response:
    """404 for an invalid path, because nothing can have it; 422 for everything else."""
    assert isinstance(error, RequestValidationError)
    invalid = error.errors()
    if any(each["loc"][0] == "path" for each in invalid):
        return problems.response(problems.NOT_FOUND)
    return problems.response(problems.INVALID, "; ".join(map(_describe, invalid[:5])))


async def _handle_http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    headers = dict(error.headers or {})
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        headers["Allow"] = ", ".join(_allowed_methods(request))
    if isinstance(error, ProblemException):
        return problems.response(error.problem, error.problem_detail, **headers)
    problems_by_status = {
        404: problems.NOT_FOUND,
        405: problems.METHOD_NOT_ALLOWED,
        400: problems.NOT_JSON,
    }
    return problems.response(problems_by_status.get(error.status_code, problems.FAULT), **headers)


def _allowed_methods(request: Request) -> list[str]:
    """The methods of a request's path. Each is a route of its own, and the router names only the first."""
    routes = [
        route
        for route in iter_route_contexts(request.app.routes)
        if route.matches(request.scope)[0] != Match.NONE
        and route.endpoint is not applications.list_not_found
    ]
    methods: set[str] = set()
    for route in routes:
        if route.path == routes[0].path:
            methods |= route.methods or set()
    if "GET" in methods:
        methods.add("HEAD")
    return sorted(methods)


def _describe(error: Any) -> str:
    """The place and the defect; never the value itself, which may be a text."""
    location = ".".join(map(str, error["loc"]))
    return f"{location}: {str(error['msg']).removeprefix('Value error, ')}"
