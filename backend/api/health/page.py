"""The pages: `/`, whether everything is well, and `/docs`, the API to read and to try.

No script or style but our own files, no other host, and nothing that a visitor's browser would keep.
"""

from html import escape
from importlib import metadata
from typing import Final

from fastapi import APIRouter, Request, Response

from backend.api import problems
from backend.api.assets import address, asset
from backend.api.health.poller import Seen
from backend.api.health.summary import Figure, Group, State, Verdict, groups, verdict
from backend.api.service import Here

router = APIRouter(include_in_schema=False)

# Swagger UI draws its icons from data: addresses and styles its parts by attributes.
_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self';"
    " base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_DOCS_POLICY: Final = _POLICY.replace("img-src 'self'", "img-src 'self' data:")
_CLASSES: Final = {
    State.WELL: "well",
    State.UNKNOWN: "unknown",
    State.LOOK: "look",
    State.BAD: "bad",
}
_SIGNS: Final = {State.WELL: "✓", State.UNKNOWN: "?", State.LOOK: "!", State.BAD: "✗"}
_REFRESH_SECONDS: Final = 5  # without scripts
_VERSION: Final = metadata.version("instachat")


@router.get("/")
async def status_page(here: Here) -> Response:
    """Whether everything is well, or what is not. Made anew at most once a second."""
    return _page(_status_page(await here.watch.look()), _POLICY)


@router.get("/docs")
async def docs_page() -> Response:
    """Swagger UI."""
    return _page(_docs_page(), _DOCS_POLICY)


@router.get("/assets/{name}")
async def asset_file(request: Request, name: str) -> Response:
    """A page's file. Its address changes with its content, so a browser asks for it once."""
    found = asset(name)
    if found is None:
        return problems.response(problems.NOT_FOUND)
    headers = {
        "Cache-Control": "public, max-age=31536000, immutable",
        "ETag": f'"{found.digest}"',
        "Vary": "Accept-Encoding",
    }
    if "gzip" in request.headers.get("accept-encoding", ""):
        return Response(
            found.packed,
            headers=headers | {"Content-Encoding": "gzip"},
            media_type=found.media_type,
        )
    return Response(found.plain, headers=headers, media_type=found.media_type)


def _page(html: str, policy: str) -> Response:
    headers = {"Content-Security-Policy": policy}  # the edge's own would forbid all
    return Response(html, headers=headers, media_type="text/html; charset=utf-8")


def _status_page(seen: Seen) -> str:
    found = groups(seen)
    said = verdict(found)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>InstaChat: {said.sentence.lower()}</title>
<link rel="icon" href="{address("icon.svg")}">
<link rel="stylesheet" href="{address("page.css")}">
<script src="{address("page.js")}" defer></script>
<noscript><meta http-equiv="refresh" content="{_REFRESH_SECONDS}"></noscript>
</head>
<body>
<header>
<h1>InstaChat</h1>
<nav aria-label="More"><a href="/docs">API documentation</a><a href="/metrics">Metrics</a></nav>
</header>
<main>
{_verdict(said)}
<div class="groups" id="groups" data-live>
{"".join(map(_group, found))}</div>
</main>
<footer>
<span id="seen" data-live>Seen at
<time datetime="{seen.at:%Y-%m-%dT%H:%M:%SZ}">{seen.at:%H:%M:%S} UTC</time></span>
<span>Version {_VERSION}</span>
<button type="button" id="pause" hidden>Pause</button>
</footer>
</body>
</html>
"""


def _verdict(said: Verdict) -> str:
    advice = "".join(f"<li>{_code(each)}.</li>" for each in said.advice)
    return (
        f'<div id="verdict" data-live role="status" class="verdict {_CLASSES[said.state]}">'
        f'<strong><span aria-hidden="true">{_SIGNS[said.state]}</span> {said.sentence}</strong>'
        f"{f'<ul>{advice}</ul>' if advice else ''}</div>"
    )


def _group(group: Group) -> str:
    name = escape(group.name)
    lines = "".join(map(_figure, group.figures))
    return f'<section aria-label="{name}"><h2>{name}</h2><dl>{lines}</dl></section>\n'


def _figure(figure: Figure) -> str:
    return (
        f"<div><dt>{escape(figure.name)}</dt>"
        f'<dd class="state {_CLASSES[figure.state]}">'
        f'<span aria-hidden="true">{_SIGNS[figure.state]}</span> {figure.state}</dd>'
        f'<dd class="value">{escape(figure.value)}</dd></div>'
    )


def _code(advice: str) -> str:
    """What is between backquotes is a command."""
    parts = escape(advice).split("`")
    return "".join(f"<code>{part}</code>" if odd % 2 else part for odd, part in enumerate(parts))


def _docs_page() -> str:
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>InstaChat: API documentation</title>
<link rel="icon" href="{address("icon.svg")}">
<link rel="stylesheet" href="{address("swagger-ui.css")}">
<link rel="stylesheet" href="{address("docs.css")}">
<script src="{address("swagger-ui-bundle.js")}" defer></script>
<script src="{address("docs.js")}" defer></script>
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
