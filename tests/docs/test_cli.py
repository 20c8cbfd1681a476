"""docs/cli.md is what the program says of itself."""

from tools.cli_reference import PAGE, reference


def test_the_page_is_generated_from_the_program() -> None:
    """`make docs` writes it."""
    assert PAGE.read_text(encoding="utf-8") == reference()
