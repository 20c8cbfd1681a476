"""`/healthz`, the process is up, and `/readyz`, the engines answer."""

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse

from backend.api import schemas
from backend.api.service import ServiceDep

router = APIRouter(tags=["health"])


@router.get("/healthz", response_model=schemas.Health)
async def healthz() -> Response:
    """This process is up."""
    return JSONResponse({"status": "up", "away": []})


@router.get(
    "/readyz",
    response_model=schemas.Health,
    responses={503: {"model": schemas.Health, "description": "An engine does not answer."}},
)
async def readyz(service: ServiceDep) -> Response:
    """The engines answer; otherwise 503, and which don't.

    Without Elasticsearch only searching fails: `degraded`, and 200, so that nobody takes the rest away.
    """
    away = (await service.health_poller.poll()).away
    if set(away) - {"Elasticsearch"}:
        return JSONResponse({"status": "away", "away": away}, 503, {"Retry-After": "1"})
    return JSONResponse({"status": "degraded" if away else "ready", "away": away})
