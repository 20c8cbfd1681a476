"""Sentences on a terminal break between words only."""

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from instachat_cli.console.wrap import display_width, wrap, wrap_for


@given(st.text(alphabet="ab é你  ", max_size=200), st.integers(1, 90))
def test_words_stay_whole_and_lines_fit(sentence: str, width: int) -> None:
    """Only a word that is wider than the terminal stands alone on a line that is too wide."""
    lines = wrap(sentence, width).split("\n")
    assert " ".join(lines).split() == sentence.split()
    for line in lines:
        assert display_width(line.rstrip()) <= width or len(line.split()) <= 1


def test_a_url_is_not_broken() -> None:
    url = "https://db.example/a-long/path?with=parameters"
    assert wrap(f"see {url} first", 20) == f"see\n{url}\nfirst"


def test_only_a_terminal_gets_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "10")
    pipe, terminal = io.StringIO(), io.StringIO()
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    assert wrap_for(pipe, "one two three") == "one two three"
    assert wrap_for(terminal, "one two three") == "one two\nthree"
