"""The operator's routes require the admin token; a server without one does not have these routes.

What they change is in the audit trail.
"""

import secrets
from collections.abc import Callable
from typing import Annotated

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from backend.api import problems
from backend.api.client_address import client_address
from backend.api.problems import ProblemException
from backend.api.service import OPERATOR, ServiceDep
from backend.domain.errors import InstaChatError

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


async def run_recorded(service: ServiceDep, request: Request, call: Callable[[], object]) -> None:
    """Run an operator's change as `Service.run` does, with a row in the audit trail.

    Its result is `accepted`, or the name of the problem. Of the operator it has the address.
    """
    address = client_address(request)
    command = f"{request.method} {request.scope['route'].path}"

    def change() -> None:
        trail = service.core.audit_trail
        with trail.recorded(f"admin token from {address}", command, "") as recorded:
            try:
                call()
                recorded.result = "accepted"
            except InstaChatError as error:
                recorded.result = problems.from_error(error)[0].name
                raise

    await service.run(OPERATOR, change)
