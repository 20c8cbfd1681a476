"""`POST /messages/reindex`: the operator's wish for another search index."""

from fastapi import APIRouter, Depends, Response

from backend.api.openapi import route_responses
from backend.api.operator_auth import require_operator
from backend.api.schemas import PREFIX
from backend.api.service import ServiceDep

router = APIRouter(
    prefix=PREFIX + "/messages", tags=["operator"], dependencies=[Depends(require_operator)]
)


@router.post("/reindex", status_code=202, response_class=Response, responses=route_responses(401))
async def reindex(service: ServiceDep) -> Response:
    """Ask for the search index to be built anew, by a worker, while searches and changes go on.

    One that was interrupted goes on. Where PostgreSQL searches there is nothing to build.
    """
    if service.core.reindexer is not None:
        await service.run(service.core.jobs.request_reindex)
    return Response(status_code=202)
