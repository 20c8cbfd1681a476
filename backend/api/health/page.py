"""The pages: `/`, whether everything is well, and `/docs`, the API to read and to try.

No script or style but our own files, no other host, and nothing that a visitor's browser would keep.
"""

from html import escape
from importlib import metadata
from typing import Final

from fastapi import APIRouter, Request, Response

from backend.api import problems
from backend.api.assets import asset_url, load_asset
from backend.api.health.poller import HealthSnapshot
from backend.api.health.summary import (
    Figure,
    FigureGroup,
    HealthState,
    Summary,
    group_figures,
    summarize,
)
from backend.api.service import ServiceDep

router = APIRouter(include_in_schema=False)

# Swagger UI draws its icons from data: addresses and styles its parts by attributes.
_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self';"
    " base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_DOCS_POLICY: Final = _POLICY.replace("img-src 'self'", "img-src 'self' data:")
_CSS_CLASSES: Final = {
    HealthState.OK: "ok",
    HealthState.UNKNOWN: "unknown",
    HealthState.WARNING: "warning",
    HealthState.CRITICAL: "critical",
}
_SIGNS: Final = {
    HealthState.OK: "✓",
    HealthState.UNKNOWN: "?",
    HealthState.WARNING: "!",
    HealthState.CRITICAL: "✗",
}
_REFRESH_SECONDS: Final = 5  # without scripts
_VERSION: Final = metadata.version("instachat")


@router.get("/")
async def status_page(service: ServiceDep) -> Response:
    """Whether everything is well, or what is not. Made anew at most once a second."""
    return _html_response(_status_page_html(await service.health_poller.poll()), _POLICY)


@router.get("/docs")
async def docs_page() -> Response:
    """Swagger UI."""
    return _html_response(_docs_page_html(), _DOCS_POLICY)


@router.get("/assets/{name}")
async def asset_file(request: Request, name: str) -> Response:
    """A page's file. Its address changes with its content, so a browser asks for it once."""
    found = load_asset(name)
    if found is None:
        return problems.response(problems.NOT_FOUND)
    headers = {
        "Cache-Control": "public, max-age=31536000, immutable",
        "ETag": f'"{found.digest}"',
        "Vary": "Accept-Encoding",
    }
    if "gzip" in request.headers.get("accept-encoding", ""):
        return Response(
            found.gzipped,
            headers=headers | {"Content-Encoding": "gzip"},
            media_type=found.media_type,
        )
    return Response(found.content, headers=headers, media_type=found.media_type)


def _html_response(html: str, policy: str) -> Response:
    headers = {"Content-Security-Policy": policy}  # the edge's own would forbid all
    return Response(html, headers=headers, media_type="text/html; charset=utf-8")


def _status_page_html(snapshot: HealthSnapshot) -> str:
    figure_groups = group_figures(snapshot)
    summary = summarize(figure_groups)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>InstaChat: {summary.sentence.lower()}</title>
<link rel="icon" href="{asset_url("icon.svg")}">
<link rel="stylesheet" href="{asset_url("page.css")}">
<script src="{asset_url("page.js")}" defer></script>
<noscript><meta http-equiv="refresh" content="{_REFRESH_SECONDS}"></noscript>
</head>
<body>
<header>
<h1>InstaChat</h1>
<nav aria-label="More"><a href="/docs">API documentation</a><a href="/metrics">Metrics</a></nav>
</header>
<main>
{_summary_html(summary)}
<div class="groups" id="groups" data-live>
{"".join(map(_group_html, figure_groups))}</div>
</main>
<footer>
<span id="snapshot" data-live>Seen at
<time datetime="{snapshot.at:%Y-%m-%dT%H:%M:%SZ}">{snapshot.at:%H:%M:%S} UTC</time></span>
<span>Version {_VERSION}</span>
<button type="button" id="pause" hidden>Pause</button>
</footer>
</body>
</html>
"""


def _summary_html(summary: Summary) -> str:
    advice = "".join(f"<li>{_advice_html(each)}.</li>" for each in summary.advice)
    return (
        f'<div id="summary" data-live role="status" class="summary {_CSS_CLASSES[summary.state]}">'
        f'<strong><span aria-hidden="true">{_SIGNS[summary.state]}</span> {summary.sentence}</strong>'
        f"{f'<ul>{advice}</ul>' if advice else ''}</div>"
    )


def _group_html(group: FigureGroup) -> str:
    name = escape(group.name)
    lines = "".join(map(_figure_html, group.figures))
    return f'<section aria-label="{name}"><h2>{name}</h2><dl>{lines}</dl></section>\n'


def _figure_html(figure: Figure) -> str:
    return (
        f"<div><dt>{escape(figure.name)}</dt>"
        f'<dd class="state {_CSS_CLASSES[figure.state]}">'
        f'<span aria-hidden="true">{_SIGNS[figure.state]}</span> {figure.state}</dd>'
        f'<dd class="value">{escape(figure.value)}</dd></div>'
    )


def _advice_html(advice: str) -> str:
    """What is between backquotes is a command."""
    parts = escape(advice).split("`")
    return "".join(f"<code>{part}</code>" if odd % 2 else part for odd, part in enumerate(parts))


def _docs_page_html() -> str:
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>InstaChat: API documentation</title>
<link rel="icon" href="{asset_url("icon.svg")}">
<link rel="stylesheet" href="{asset_url("swagger-ui.css")}">
<link rel="stylesheet" href="{asset_url("docs.css")}">
<script src="{asset_url("swagger-ui-bundle.js")}" defer></script>
<script src="{asset_url("docs.js")}" defer></script>
</head>
<body>
<nav class="crumbs" aria-label="More">
<a href="/">Is everything well?</a><a href="/openapi.json">openapi.json</a>
</nav>
<main id="swagger">
<noscript>Swagger UI needs JavaScript; <a href="/openapi.json">openapi.json</a> does not.</noscript>
</main>
</body>
</html>
"""
