"""Find the messages of a chat that contain a keyword."""

from typing import Annotated

import typer

from instachat_cli.commands.messages import COLUMNS
from instachat_cli.console.options import After, ChatNumber, Limit, Output, Token
from instachat_cli.console.output import Printer
from instachat_cli.console.stderr import stderr
from instachat_cli.runtime.context import backend_context, note_unstored

Keyword = Annotated[
    str, typer.Argument(metavar="KEYWORD", help="1 to 256 characters; no wildcards or operators.")
]


def search(
    token: Token,
    chat: ChatNumber,
    keyword: Keyword,
    limit: Limit = None,
    after: After = 0,
    output: Output = None,
) -> None:
    """Find the messages of a chat that contain a keyword.

    $ instachat search $TOKEN 1 morning --limit 10

    Works in every script. Case and compatibility forms of characters are ignored.
    """
    from backend.domain import serialization

    with backend_context() as core:
        matches = core.catalog.messages.search(token, chat, keyword, after=after, limit=limit)
        bodies = map(serialization.match, matches)
        Printer(output).many(bodies, COLUMNS, "nothing found")
        if matches.incomplete:
            stderr.warning(f"incomplete: {matches.incomplete}; see `instachat doctor`")
        note_unstored(core, token)
