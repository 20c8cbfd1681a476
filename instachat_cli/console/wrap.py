"""Sentences on a terminal: broken between words only.

A terminal itself breaks a long line wherever its width ends, also within a word. A word that is wider than
the terminal, such as a URL, is written whole: the terminal breaks it, and still copies it as one.
"""

import os
import re
from contextlib import suppress
from typing import TextIO
from unicodedata import combining, east_asian_width

DEFAULT_COLUMNS = 80


def wrap(sentence: str, width: int) -> str:
    """The sentence in lines of at most this width, but for wider words. Other spaces stay as they are."""
    lines: list[str] = []
    line = ""
    for word in re.findall(" *[^ ]+| +", sentence):
        if line.strip() and display_width(line + word) > width:
            lines.append(line)
            line = word.lstrip(" ")
        else:
            line += word
    return "\n".join([*lines, line])


def wrap_for(stream: TextIO, sentence: str) -> str:
    """The sentence as the stream should show it: wrapped if it is a terminal, otherwise as one line."""
    if not stream.isatty():
        return sentence
    return wrap(sentence, columns(stream))


def columns(stream: TextIO) -> int:
    """The width of a terminal; 80 if it is not known."""
    with suppress(KeyError, ValueError):
        return int(os.environ["COLUMNS"])
    with suppress(OSError):
        return os.get_terminal_size(stream.fileno()).columns or DEFAULT_COLUMNS
    return DEFAULT_COLUMNS


def display_width(text: str) -> int:
    """How many columns of a terminal the text takes."""
    if text.isascii():
        return len(text)
    wide = sum(east_asian_width(character) in "WF" for character in text)
    return len(text) + wide - sum(combining(character) > 0 for character in text)
