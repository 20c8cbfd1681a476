"""The operator's routes: they want the admin token, and do not exist where none is set."""

import secrets
from typing import Annotated

from fastapi import Depends
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from backend.api import problems
from backend.api.problems import Refused
from backend.api.service import Here

_bearer = HTTPBearer(
    scheme_name="Operator",
    description="INSTACHAT_ADMIN_TOKEN of the server",
    auto_error=False,
)


async def operator(
    here: Here, given: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]
) -> None:
    """Refused unless the request carries the admin token; compared in constant time."""
    token = here.core.settings.admin_token
    assert token is not None  # without one there is no such route
    wanted = token.get_secret_value().encode()
    if given is None or not secrets.compare_digest(given.credentials.encode(), wanted):
        raise Refused(problems.NO_OPERATOR, **{"WWW-Authenticate": "Bearer"})
