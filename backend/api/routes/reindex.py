"""`POST /messages/reindex`: the operator's wish for another search index."""

from fastapi import APIRouter, Depends, Response

from backend.api.openapi import answers
from backend.api.operator_auth import operator
from backend.api.schemas import PREFIX
from backend.api.service import Here

router = APIRouter(prefix=PREFIX + "/messages", tags=["operator"], dependencies=[Depends(operator)])


@router.post("/reindex", status_code=202, response_class=Response, responses=answers(401))
async def reindex(here: Here) -> Response:
    """Ask for the search index to be built anew, by a worker, while searches and changes go on.

    One that was interrupted goes on. Where PostgreSQL searches there is nothing to build.
    """
    if here.core.reindexer is not None:
        await here.call(here.core.jobs.ask_reindex)
    return Response(status_code=202)
