"""`/applications`: create, show, rename, delete; for operators, list."""

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import JSONResponse

from backend.api import problems, schemas
from backend.api.conditional import application_etag, parse_if_match, read_response
from backend.api.openapi import route_responses
from backend.api.parameters import (
    DEFAULT_PAGE_SIZE,
    PREFIX,
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
from backend.api.service import ServiceDep
from backend.domain import model, serialization

router = APIRouter(prefix=PREFIX + "/applications", tags=["applications"], route_class=JsonRoute)
operator_router = APIRouter(
    prefix=PREFIX + "/applications", tags=["operator"], dependencies=[Depends(require_operator)]
)
no_operator_router = APIRouter(prefix=PREFIX + "/applications", include_in_schema=False)


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
    address = request.client.host if request.client else "unknown"
    name = body.application.name

    def create() -> model.Application:
        service.creation_limit.count(address)
        return service.catalog.applications.create(name, key=idempotency_key)

    return _application_response(await service.run(create), 201)


@router.get(
    "/{token}", response_model=schemas.Application, responses=route_responses(404, read=True)
)
async def show_application(
    service: ServiceDep, token: Token, if_none_match: IfNoneMatch = None
) -> Response:
    """Show an application with its live count of chats."""
    application = await service.run(lambda: service.catalog.applications.get(token))
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
    version, name = parse_if_match(if_match), body.application.name
    renamed = await service.run(
        lambda: service.catalog.applications.rename(token, name, version=version)
    )
    return _application_response(renamed)


@router.delete("/{token}", status_code=204, responses=route_responses(404, 409, cascading=True))
async def delete_application(
    service: ServiceDep, token: Token, cascade: Cascade = False, if_match: IfMatch = None
) -> Response:
    """Delete an application. One that has chats is deleted only with `cascade`, together with its chats."""
    version = parse_if_match(if_match)
    await service.run_change(
        lambda: service.catalog.applications.delete(token, cascade=cascade, version=version),
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
    applications = await service.run(
        lambda: list(service.catalog.applications.list(after_token=after, limit=limit + 1))
    )
    items = [serialization.application(each) for each in applications[:limit]]
    body = {"items": items, "next": items[-1]["token"] if len(applications) > limit else None}
    return read_response(body, if_none_match)


@no_operator_router.get("")
async def list_not_found() -> Response:
    """The same 404 as for any unknown path, where POST alone would make it a 405."""
    raise ProblemException(problems.NOT_FOUND)


def _application_response(application: model.Application, status: int = 200) -> Response:
    return JSONResponse(
        serialization.application(application), status, {"ETag": _etag(application)}
    )


def _etag(application: model.Application) -> str:
    return application_etag(application.version, application.chats_count)
