"""The pages' own files, and Swagger UI's: served from here, packed, and kept by browsers."""

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
    """A file, as it is and packed. `digest` names its content."""

    media_type: str
    content: bytes
    gzipped: bytes
    digest: str


@cache
def load_asset(name: str) -> Asset | None:
    """The file of that name; None where there is none."""
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
    """Where a page finds a file; another content has another address."""
    found = load_asset(name)
    assert found
    return f"/assets/{name}?{found.digest}"
