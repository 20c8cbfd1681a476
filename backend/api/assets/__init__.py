"""The files of the pages, and those of Swagger UI: served compressed, and cached by browsers."""

import gzip
import hashlib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Final

_OWN_FILES: Final = {"page.css", "page.js", "docs.css", "docs.js", "icon.svg"}
_SWAGGER_FILES: Final = {"swagger-ui-bundle.js", "swagger-ui.css"}
_MEDIA_TYPES: Final = {"css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}


@dataclass(frozen=True, slots=True)
class Asset:
    """A file, plain and compressed. `digest` identifies its content."""

    media_type: str
    content: bytes
    gzipped: bytes
    digest: str


@cache
def load_asset(name: str) -> Asset | None:
    """The file of that name; None if there is none."""
    if name in _OWN_FILES:
        folder = files(__name__)
    elif name in _SWAGGER_FILES:
        folder = files("fastapi_swagger") / "resources"
    else:
        return None
    content = (folder / name).read_bytes()
    return Asset(
        f"{_MEDIA_TYPES[name.rpartition('.')[2]]}; charset=utf-8",
        content,
        gzip.compress(content, mtime=0),
        hashlib.sha256(content).hexdigest()[:16],
    )


def asset_url(name: str) -> str:
    """The address of a file. It changes with the content."""
    asset = load_asset(name)
    assert asset
    return f"/assets/{name}?{asset.digest}"
