"""The operator's routes require the admin token; a server without one does not have these routes."""

import secrets
from typing import Annotated

from fastapi import Depends
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from backend.api import problems
from backend.api.problems import ProblemException
from backend.api.service import ServiceDep

_bearer = HTTPBearer(
    scheme_name="Operator",
    description="INSTACHAT_ADMIN_TOKEN of the server",
    auto_error=False,
)


async def require_operator(
    service: ServiceDep,
    credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)],
) -> None:
    """Raise ProblemException unless the request carries the admin token. Compares in constant time."""
    token = service.core.settings.admin_token
    assert token is not None  # the routes exist only with one
    expected = token.get_secret_value().encode()
    if credentials is None or not secrets.compare_digest(
        credentials.credentials.encode(), expected
    ):
        raise ProblemException(problems.NO_OPERATOR, **{"WWW-Authenticate": "Bearer"})
