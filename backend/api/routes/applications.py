"""`/applications`: create, show, rename, delete; for operators, list."""

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import JSONResponse

from backend.api import problems, schemas
from backend.api.client_address import client_address
from backend.api.conditional import application_etag, parse_if_match, read_response
from backend.api.openapi import route_responses
from backend.api.parameters import (
    APPLICATION,
    APPLICATIONS,
    DEFAULT_PAGE_SIZE,
    AfterToken,
    Cascade,
    IdempotencyKey,
    IfMatch,
    IfNoneMatch,
    Limit,
    Token,
    Wait,
)
from backend.api.problems import ProblemException
from backend.api.request_body import JsonRoute
from backend.api.routes.operator import require_operator
from backend.api.service import OPERATOR, ServiceDep
from backend.domain import model, serialization

router = APIRouter(prefix=APPLICATIONS, tags=["applications"], route_class=JsonRoute)
operator_router = APIRouter(
    prefix=APPLICATIONS, tags=["operator"], dependencies=[Depends(require_operator)]
)
no_operator_router = APIRouter(prefix=APPLICATIONS, include_in_schema=False)
no_token_router = APIRouter(prefix=APPLICATION, include_in_schema=False)
_METHODS = ["GET", "POST", "PATCH", "DELETE"]


@router.post(
    "",
    status_code=201,
    response_model=schemas.Application,
    responses=route_responses(409, 429, body=True, etag=201),
)
async def create_application(
    service: ServiceDep,
    request: Request,
    body: schemas.ApplicationBody,
    idempotency_key: IdempotencyKey = None,
    wait: Wait = None,  # noqa: ARG001  # accepted here as on other creations; an application is stored before its response
) -> Response:
    """Create an application. Anyone who has its token can use it: keep the token like a password."""
    address = client_address(request)
    name = body.application.name

    def create() -> model.Application:
        service.creation_limit.count(address)
        return service.catalog.applications.create(name, key=idempotency_key)

    return _application_response(await service.run_application_creation(address, create), 201)


@router.get(
    "/{token}", response_model=schemas.Application, responses=route_responses(404, read=True)
)
async def show_application(
    service: ServiceDep, token: Token, if_none_match: IfNoneMatch = None
) -> Response:
    """Show an application with its live count of chats."""
    application = await service.run(token, lambda: service.catalog.applications.get(token))
    return read_response(serialization.application(application), if_none_match, _etag(application))


@router.patch(
    "/{token}",
    response_model=schemas.Application,
    responses=route_responses(404, 409, body=True, etag=200),
)
async def rename_application(
    service: ServiceDep, token: Token, body: schemas.ApplicationBody, if_match: IfMatch = None
) -> Response:
    """Rename an application."""
    versions, name = parse_if_match(if_match), body.application.name
    renamed = await service.run_application_change(
        token, lambda: service.catalog.applications.rename(token, name, versions=versions)
    )
    return _application_response(renamed)


@router.delete("/{token}", status_code=204, responses=route_responses(404, 409, cascading=True))
async def delete_application(
    service: ServiceDep, token: Token, cascade: Cascade = False, if_match: IfMatch = None
) -> Response:
    """Delete an application. One that has chats is deleted only with `cascade`, together with its chats."""
    versions = parse_if_match(if_match)
    await service.run_change(
        token,
        lambda: service.catalog.applications.delete(token, cascade=cascade, versions=versions),
        decided_by_drain=True,
    )
    return Response(status_code=202 if cascade else 204)


@operator_router.get(
    "", response_model=schemas.Applications, responses=route_responses(401, 404, read=True)
)
async def list_applications(
    service: ServiceDep,
    limit: Limit = DEFAULT_PAGE_SIZE,
    after: AfterToken = None,
    if_none_match: IfNoneMatch = None,
) -> Response:
    """List all applications in the order of their creation."""
    original = None if after is None else service.core.tokens.original(after)
    applications = await service.run(
        OPERATOR,
        lambda: list(service.catalog.applications.list(after_token=original, limit=limit + 1)),
    )
    items = [serialization.application(each) for each in applications[:limit]]
    body = {"items": items, "next": items[-1]["token"] if len(applications) > limit else None}
    return read_response(body, if_none_match)


@no_operator_router.get("")
async def list_not_found() -> Response:
    """The same 404 as for any unknown path, where POST alone would make it a 405."""
    raise ProblemException(problems.NOT_FOUND)


@no_token_router.api_route("", methods=_METHODS)
@no_token_router.api_route("/{rest:path}", methods=_METHODS)
async def refuse_without_token(request: Request) -> Response:
    """401 without a token; 404 for what can be no application's token, as for any other unknown one."""
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not token:
        raise ProblemException(problems.NO_TOKEN, **{"WWW-Authenticate": "Bearer"})
    raise ProblemException(problems.NOT_FOUND)


def _application_response(application: model.Application, status: int = 200) -> Response:
    return JSONResponse(
        serialization.application(application), status, {"ETag": _etag(application)}
    )


def _etag(application: model.Application) -> str:
    return application_etag(application.version, application.chats_count)
