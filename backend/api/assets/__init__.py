"""The pages' own files, and Swagger UI's: served from here, packed, and kept by browsers."""

import gzip
import hashlib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Final

_OURS: Final = {"page.css", "page.js", "docs.css", "docs.js", "icon.svg"}
_SWAGGER: Final = {"swagger-ui-bundle.js", "swagger-ui.css"}
_TYPES: Final = {"css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}


@dataclass(frozen=True, slots=True)
class Asset:
    """A file, as it is and packed. `digest` names its content."""

    media_type: str
    plain: bytes
    packed: bytes
    digest: str


@cache
def asset(name: str) -> Asset | None:
    """The file of that name; None where there is none."""
    if name in _OURS:
        folder = files(__name__)
    elif name in _SWAGGER:
        folder = files("fastapi_swagger") / "resources"
    else:
        return None
    plain = (folder / name).read_bytes()
    return Asset(
        f"{_TYPES[name.rpartition('.')[2]]}; charset=utf-8",
        plain,
        gzip.compress(plain, mtime=0),
        hashlib.sha256(plain).hexdigest()[:16],
    )


def address(name: str) -> str:
    """Where a page finds a file; another content has another address."""
    found = asset(name)
    assert found
    return f"/assets/{name}?{found.digest}"
