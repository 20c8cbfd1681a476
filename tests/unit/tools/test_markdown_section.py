"""Sections of pages that programs write."""

from pathlib import Path

import pytest

from tools.markdown_section import read_section, replace_section

PAGE = "# A\n<!-- x: begin -->\nold\n<!-- x: end -->\nrest\n"


def test_only_the_section_is_replaced(tmp_path: Path) -> None:
    """Also again."""
    page = tmp_path / "page.md"
    page.write_text(PAGE)
    for text in ("new", "newer"):
        replace_section(page, "x", text)
        assert read_section(page, "x") == text
    assert page.read_text() == "# A\n<!-- x: begin -->\n\nnewer\n\n<!-- x: end -->\nrest\n"


@pytest.mark.parametrize(
    "text", ["# A\n", PAGE + PAGE, "<!-- x: begin -->\n", "<!-- x: end -->\n<!-- x: begin -->\n"]
)
def test_a_page_without_one_such_section_is_refused(tmp_path: Path, text: str) -> None:
    """It is not changed."""
    page = tmp_path / "page.md"
    page.write_text(text)
    with pytest.raises(ValueError, match="one section x"):
        replace_section(page, "x", "new")
    assert page.read_text() == text
