"""`/applications`: the tenants."""

from typing import Any

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse

from backend import bodies, model
from backend.api import shapes
from backend.api.conditions import IfMatch, etag, version_of
from backend.api.service import Here
from backend.api.shapes import Token

router = APIRouter(prefix="/applications", tags=["applications"])


@router.post("", status_code=201, response_model=shapes.Application)
async def create_application(here: Here, body: shapes.ApplicationBody) -> Response:
    """Create an application. Whoever knows its token can use it: keep it as a password."""
    made = await here.call(lambda: here.core.catalog.create_application(body.application.name))
    return _answer(made, 201)


@router.get("/{token}", response_model=shapes.Application)
async def show_application(here: Here, token: Token) -> Response:
    """An application, with its live count of chats."""
    return _answer(await here.call(lambda: here.core.catalog.application(token)))


@router.patch("/{token}", response_model=shapes.Application)
async def rename_application(
    here: Here, token: Token, body: shapes.ApplicationBody, if_match: IfMatch = None
) -> Response:
    """Give an application another name."""
    version, name = version_of(if_match), body.application.name
    renamed = await here.call(
        lambda: here.core.catalog.rename_application(token, name, version=version)
    )
    return _answer(renamed)


@router.delete("/{token}", status_code=204)
async def delete_application(here: Here, token: Token) -> Response:
    """Delete an application that has no chats."""
    await here.call(lambda: here.core.catalog.delete_application(token))
    return Response(status_code=204)


def _answer(found: model.Application, status: int = 200) -> Response:
    body: dict[str, Any] = bodies.application(found)
    return JSONResponse(body, status, {"ETag": etag(found.version)})
