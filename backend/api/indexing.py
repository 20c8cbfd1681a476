"""`POST /messages/reindex`: the operator's wish for another search index."""

from fastapi import APIRouter, Depends, Response

from backend.api.documented import answers
from backend.api.operator import operator
from backend.api.service import Here
from backend.api.shapes import PREFIX

router = APIRouter(prefix=PREFIX + "/messages", tags=["operator"], dependencies=[Depends(operator)])


@router.post("/reindex", status_code=202, response_class=Response, responses=answers(401))
async def reindex(here: Here) -> Response:
    """Ask for the search index to be built anew, by a worker, while searches and changes go on.

    One that was interrupted goes on. Where PostgreSQL searches there is nothing to build.
    """
    if here.core.reindexer is not None:
        await here.call(here.core.jobs.ask_reindex)
    return Response(status_code=202)
