"""What other programs ask: `/healthz` (the process runs), `/readyz` (the engines respond), `/metrics`."""

import asyncio

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from backend.api import schemas
from backend.api.health import process_metrics
from backend.api.health.metrics import render
from backend.api.service import ServiceDep

router = APIRouter(tags=["health"])
metrics_router = APIRouter(include_in_schema=False)


@router.get("/healthz", response_model=schemas.Health)
async def healthz() -> Response:
    """This process is up."""
    return JSONResponse({"status": "up", "away": []})


@router.get(
    "/readyz",
    response_model=schemas.Health,
    responses={503: {"model": schemas.Health, "description": "Send no requests to this server."}},
)
async def readyz(service: ServiceDep) -> Response:
    """Whether the engines respond: 200 if they do, otherwise 503 with the names of those that do not.

    During an upgrade a server that the database does not admit, or not yet, is `incompatible`, also with 503.
    Without Elasticsearch only searches of large chats are incomplete, and without a shard of Redis only its
    applications accept nothing. The status is `degraded` then, and the response 200, so that a load balancer
    keeps sending requests.
    """
    snapshot = await service.health_poller.poll()
    away = snapshot.away
    if snapshot.incompatible:
        return JSONResponse({"status": "incompatible", "away": away}, 503, {"Retry-After": "1"})
    if snapshot.unusable:
        return JSONResponse({"status": "away", "away": away}, 503, {"Retry-After": "1"})
    return JSONResponse({"status": "degraded" if away else "ready", "away": away})


@metrics_router.get("/metrics")
async def metrics(service: ServiceDep, request: Request) -> Response:
    """All metrics, in the text format of Prometheus or OpenMetrics, whichever the request accepts."""
    snapshot = await service.health_poller.poll()
    process_metrics.flush()
    accepted = request.headers.get("accept", "")
    content, media_type = await asyncio.to_thread(render, snapshot, accepted)
    return Response(content, headers={"Content-Type": media_type})
