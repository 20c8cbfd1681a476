"""HTML responses, and the policy that lets their pages load this server's own files and nothing else."""

from typing import Final

from fastapi import Response

POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self';"
    " base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def html_response(html: str, policy: str = POLICY) -> Response:
    """A page. Its policy takes the place of the common one, which forbids everything."""
    headers = {"Content-Security-Policy": policy}
    return Response(html, headers=headers, media_type="text/html; charset=utf-8")
