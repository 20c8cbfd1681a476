"""`/healthz`, the process is up, and `/readyz`, the engines answer."""

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse

from backend.api.service import Here
from backend.errors import InstaChatError

router = APIRouter(tags=["health"])


@router.get("/healthz")
async def healthz() -> Response:
    """This process is up."""
    return JSONResponse({"status": "up"})


@router.get("/readyz")
async def readyz(here: Here) -> Response:
    """The engines answer; 503, and which does not, otherwise."""
    away = await here.call(lambda: _away(here))
    return JSONResponse({"status": "away" if away else "ready", "away": away}, 503 if away else 200)


def _away(here: Here) -> list[str]:
    away = []
    try:
        with here.core.database.connect():
            pass
    except InstaChatError:
        away.append("PostgreSQL")
    try:
        here.core.log.ping()
    except InstaChatError:
        away.append("Redis")
    return away
