"""What a shell suggests for an argument: the tokens of applications, and the numbers of chats.

The user has pressed a key and waits, so the database has DEADLINE_SECONDS to answer. If it does not, can't be
reached, or is a private one that does not run, nothing is suggested, and nothing is said.
"""

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

import typer

if TYPE_CHECKING:
    from backend.storage.postgres.database import Connection

DEADLINE_SECONDS = 0.2  # for connecting and reading
MAX_SUGGESTIONS = 50
MAX_CHATS_READ = 1_000
"""The newest chats are those that are suggested; so many are looked at for a prefix."""

Suggestion = tuple[str, str]
"""A value, and a help text, which may be empty."""
T = TypeVar("T")


def suggest_tokens(incomplete: str) -> list[Suggestion]:
    """Tokens that begin so, with the applications' names; the newest ones if nothing is typed yet."""
    from backend.storage.postgres.suggestions import tokens_beginning_with

    found = _read(lambda connection: tokens_beginning_with(connection, incomplete, MAX_SUGGESTIONS))
    return [(each.token, _without_syntax(each.name)) for each in found or []]


def suggest_chats(ctx: typer.Context, incomplete: str) -> list[Suggestion]:
    """Numbers of the newest chats that begin so, of the application that is named before."""
    from backend.storage.postgres.suggestions import newest_chat_numbers

    token = str(ctx.params.get("token", ""))
    numbers = _read(lambda connection: newest_chat_numbers(connection, token, MAX_CHATS_READ))
    fitting = [str(number) for number in numbers or [] if str(number).startswith(incomplete)]
    return [(number, "") for number in fitting[:MAX_SUGGESTIONS]]


def suggest_chats_or_all(ctx: typer.Context, incomplete: str) -> list[Suggestion]:
    """As `suggest_chats`, and the word `all`."""
    every = [("all", "every chat of the application")] if "all".startswith(incomplete) else []
    return every + suggest_chats(ctx, incomplete)


def _read(statement: "Callable[[Connection], T]") -> T | None:
    """What the statement reads; None without an answer in time.

    The thread that still waits then ends with the process: connecting can't be interrupted.
    """
    from backend.domain.errors import InstaChatError
    from backend.embedded.private_engines import running_database_url
    from backend.settings import load
    from backend.storage.postgres.database import Database

    found: list[T] = []

    def read() -> None:
        try:
            settings = load()
            url = settings.database_url or running_database_url(settings.home)
            if url:
                with Database(url).connect() as connection:
                    found.append(statement(connection))
        except (InstaChatError, OSError):
            pass

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    reader.join(DEADLINE_SECONDS)
    return found[0] if found else None


def _without_syntax(name: str) -> str:
    """The name without characters that mean something to a shell: zsh evaluates what is printed."""
    return "".join(each if each.isalnum() or each in " .,-" else "·" for each in name)
