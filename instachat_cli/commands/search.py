"""Find messages that contain a keyword."""

from typing import Annotated

import typer

from instachat_cli.commands.messages import COLUMNS
from instachat_cli.console.invocation import not_audited
from instachat_cli.console.options import After, Limit, Output, Quiet, Token, parse_integer
from instachat_cli.console.output import Printer
from instachat_cli.console.stderr import stderr
from instachat_cli.console.suggestions import suggest_chats_or_all
from instachat_cli.runtime.context import reads_context

Keyword = Annotated[
    str, typer.Argument(metavar="KEYWORD", help="1 to 256 characters; no wildcards or operators.")
]
ALL = "all"


def _check_chat(value: str) -> str:
    """`all`, or a whole number."""
    if value != ALL:
        parse_integer(value)
    return value


ChatOrAll = Annotated[
    str,
    typer.Argument(
        metavar="CHAT|all",
        help="The chat's number; `all`: every chat of the application, newest first.",
        callback=_check_chat,
        autocompletion=suggest_chats_or_all,
    ),
]


@not_audited
def search(
    token: Token,
    chat: ChatOrAll,
    keyword: Keyword,
    limit: Limit = None,
    after: After = 0,
    output: Output = None,
    quiet: Quiet = False,
) -> None:
    """Find messages that contain a keyword.

    $ instachat search $TOKEN 1 morning --limit 10
    $ instachat search $TOKEN all morning --limit 10

    Works in every script. Case and compatibility forms of characters are ignored. Without --limit all matches
    are listed; on a terminal only the first 50.
    """
    from backend.domain.errors import Invalid

    printer = Printer(output, quiet=quiet)
    cut = "`--limit N` lists more of them" if limit is None else None
    if chat == ALL:
        if after:
            raise Invalid("--after is a number of one chat: it does not go with `all`")
        with reads_context() as reads:
            bodies = reads.search_application(token, keyword, limit=limit)
            printer.many(bodies, ("chat", *COLUMNS), "nothing found", cut=cut)
            reads.note_unstored(token)
        return
    number = parse_integer(chat)
    with reads_context() as reads:
        found = reads.search(token, number, keyword, after=after, limit=limit)
        printer.many(found.bodies, COLUMNS, "nothing found", cut=cut)
        if why := found.incomplete():
            stderr.warning(f"incomplete: {why}; see `instachat doctor`")
        reads.note_unstored(token)
