"""Counts in sentences."""


def counted(count: int, noun: str, plural: str | None = None) -> str:
    """Such as “1 chat” and “2,000 chats”; `plural` is for a noun with its verb, or an irregular one."""
    return f"{count:,} {noun if count == 1 else f'{noun}s' if plural is None else plural}"
