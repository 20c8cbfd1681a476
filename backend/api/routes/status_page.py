"""`/`: the status page."""

from fastapi import APIRouter, Response

from backend.api.health.page import status_page_html
from backend.api.html import html_response
from backend.api.service import ServiceDep

router = APIRouter(include_in_schema=False)


@router.get("/")
async def status_page(service: ServiceDep) -> Response:
    """The state of the installation. The engines are asked at most once a second."""
    poller = service.health_poller
    return html_response(status_page_html(await poller.poll(), poller.history))
