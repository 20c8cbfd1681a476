"""`/docs`: the API documentation, to read and to try; `/assets/…`: the files of both pages."""

from typing import Final

from fastapi import APIRouter, Request, Response

from backend.api import problems
from backend.api.assets import asset_url, load_asset
from backend.api.html import POLICY, html_response

router = APIRouter(include_in_schema=False)

# Swagger UI loads its icons from data: addresses.
_DOCS_POLICY: Final = POLICY.replace("img-src 'self'", "img-src 'self' data:")


@router.get("/docs")
async def docs_page() -> Response:
    """Swagger UI."""
    return html_response(_docs_page_html(), _DOCS_POLICY)


@router.get("/assets/{name}")
async def asset_file(request: Request, name: str) -> Response:
    """A page's file. Its address changes with its content, so browsers may keep it for ever."""
    asset = load_asset(name)
    if asset is None:
        return problems.response(problems.NOT_FOUND)
    headers = {
        "Cache-Control": "public, max-age=31536000, immutable",
        "ETag": f'"{asset.digest}"',
        "Vary": "Accept-Encoding",
    }
    if "gzip" in request.headers.get("accept-encoding", ""):
        return Response(
            asset.gzipped,
            headers=headers | {"Content-Encoding": "gzip"},
            media_type=asset.media_type,
        )
    return Response(asset.content, headers=headers, media_type=asset.media_type)


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
<a href="/">Status</a><a href="/openapi.json">openapi.json</a>
</nav>
<main id="swagger">
<noscript>Swagger UI needs JavaScript; <a href="/openapi.json">openapi.json</a> does not.</noscript>
</main>
</body>
</html>
"""
