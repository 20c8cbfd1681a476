"""Lines of an export, made from their values."""

from typing import Any

from backend.storage.postgres.exports import ExportedApplication, ExportedChat
from backend.storage.postgres.messages import CONTENT, ExportedMessage
from backend.transfer.format import format_application, format_chat, format_message


def application_line(
    token: str, name: str | None, chats_count: int, created_at: str, updated_at: str
) -> str:
    """The line of an application without settings; `name` is None for a tombstone."""
    row = ExportedApplication(token, name, chats_count, None, None, created_at, updated_at)
    return format_application(row)


def chat_line(
    token: str, number: int, messages_count: int | None, created_at: str, updated_at: str
) -> str:
    """The line of a chat; `messages_count` is None for a tombstone."""
    return format_chat(ExportedChat(token, 0, number, None, messages_count, created_at, updated_at))


def message_line(
    token: str,
    chat: int,
    number: int,
    text: str | None,
    created_at: str,
    updated_at: str,
    **others: Any,
) -> str:
    """The line of a message; `text` is None for a tombstone, and `others` are its other fields."""
    content: dict[str, Any] = dict.fromkeys((*CONTENT, "first")) | {"text": text} | others
    row = ExportedMessage(
        chat_id=0, number=number, created_at=created_at, updated_at=updated_at, **content
    )
    return format_message(token, chat, row)
