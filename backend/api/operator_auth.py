"""The operator's routes: they want the admin token, and do not exist where none is set."""

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
    service: ServiceDep, given: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]
) -> None:
    """ProblemException unless the request carries the admin token; compared in constant time."""
    token = service.core.settings.admin_token
    assert token is not None  # without one there is no such route
    expected = token.get_secret_value().encode()
    if given is None or not secrets.compare_digest(given.credentials.encode(), expected):
        raise ProblemException(problems.NO_OPERATOR, **{"WWW-Authenticate": "Bearer"})
