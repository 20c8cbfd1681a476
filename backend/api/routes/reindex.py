"""`POST /messages/reindex`: an operator requests a new search index."""

from fastapi import APIRouter, Depends, Request, Response

from backend.api.openapi import route_responses
from backend.api.parameters import PREFIX
from backend.api.routes.operator import require_operator, run_recorded
from backend.api.service import ServiceDep

router = APIRouter(
    prefix=PREFIX + "/messages", tags=["operator"], dependencies=[Depends(require_operator)]
)


@router.post("/reindex", status_code=202, response_class=Response, responses=route_responses(401))
async def reindex(service: ServiceDep, request: Request) -> Response:
    """Request a rebuild of the search index, by a worker, while searches and changes continue.

    An interrupted rebuild is resumed. Without Elasticsearch there is nothing to build: PostgreSQL searches.
    """
    core = service.core
    await run_recorded(
        service, request, core.jobs.request_reindex if core.reindexer else lambda: None
    )
    return Response(status_code=202)
