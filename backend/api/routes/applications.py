"""`/applications`: the tenants."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.responses import JSONResponse

from backend.api import problems, schemas
from backend.api.openapi import answers
from backend.api.operator_auth import operator
from backend.api.parameters import Cascade, IdempotencyKey, IfMatch, Wait, etag, version_of
from backend.api.problems import Refused
from backend.api.request_body import JsonRoute
from backend.api.schemas import PREFIX, Limit, Token
from backend.api.service import Here
from backend.domain import model, serialization

router = APIRouter(prefix=PREFIX + "/applications", tags=["applications"], route_class=JsonRoute)
for_operators = APIRouter(
    prefix=PREFIX + "/applications", tags=["operator"], dependencies=[Depends(operator)]
)
without_operators = APIRouter(prefix=PREFIX + "/applications", include_in_schema=False)


@router.post(
    "",
    status_code=201,
    response_model=schemas.Application,
    responses=answers(409, 429, body=True, etag=201),
)
async def create_application(
    here: Here,
    request: Request,
    body: schemas.ApplicationBody,
    idempotency_key: IdempotencyKey = None,
    wait: Wait = None,  # noqa: ARG001  # an application is stored when it is answered
) -> Response:
    """Create an application. Whoever knows its token can use it: keep it as a password."""
    address = request.client.host if request.client else "unknown"
    name = body.application.name

    def create() -> model.Application:
        here.limit.count(address)
        return here.catalog.create_application(name, key=idempotency_key)

    return _answer(await here.call(create), 201)


@router.get("/{token}", response_model=schemas.Application, responses=answers(404, etag=200))
async def show_application(here: Here, token: Token) -> Response:
    """An application, with its live count of chats."""
    return _answer(await here.call(lambda: here.catalog.application(token)))


@router.patch(
    "/{token}",
    response_model=schemas.Application,
    responses=answers(404, 409, body=True, etag=200),
)
async def rename_application(
    here: Here, token: Token, body: schemas.ApplicationBody, if_match: IfMatch = None
) -> Response:
    """Give an application another name."""
    version, name = version_of(if_match), body.application.name
    renamed = await here.call(lambda: here.catalog.rename_application(token, name, version=version))
    return _answer(renamed)


@router.delete("/{token}", status_code=204, responses=answers(404, 409, cascading=True))
async def delete_application(
    here: Here, token: Token, cascade: Cascade = False, if_match: IfMatch = None
) -> Response:
    """Delete an application that has no chats, or with all of them."""
    version = version_of(if_match)
    await here.change(
        lambda: here.catalog.delete_application(token, cascade=cascade, version=version),
        decided_later=True,
    )
    return Response(status_code=202 if cascade else 204)


@for_operators.get("", response_model=schemas.Applications, responses=answers(401, 404))
async def list_applications(
    here: Here,
    limit: Limit = schemas.ITEMS,
    after: Annotated[
        str | None,
        Query(
            max_length=64,
            description="only what is behind the one with this token",
            examples=["Zx0kQb7mJw3pT1vR9sYc5uLe8hNdGa2f"],
        ),
    ] = None,
) -> Response:
    """All applications, in the order of their creation."""
    found = await here.call(lambda: list(here.catalog.applications(behind=after, limit=limit + 1)))
    items = [serialization.application(each) for each in found[:limit]]
    return JSONResponse(
        {"items": items, "next": items[-1]["token"] if len(found) > limit else None}
    )


@without_operators.get("")
async def no_list() -> Response:
    """As any path that nobody serves."""
    raise Refused(problems.NOT_FOUND)


def _answer(found: model.Application, status: int = 200) -> Response:
    body: dict[str, Any] = serialization.application(found)
    return JSONResponse(body, status, {"ETag": etag(found.version)})
