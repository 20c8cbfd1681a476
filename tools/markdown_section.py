"""A part of a page that a program writes, between two comments that name it."""

from pathlib import Path


def read_section(page: Path, name: str) -> str:
    """What is between `<!-- NAME: begin -->` and `<!-- NAME: end -->`, each on a line of its own.

    Raises ValueError if the page does not have each of them once.
    """
    return _split(page, name)[1].strip("\n")


def replace_section(page: Path, name: str, text: str) -> None:
    """Replace what `read_section` reads. Raises the same, and changes nothing then."""
    before, _, after = _split(page, name)
    page.write_text(f"{before}\n{text}\n\n{after}", encoding="utf-8")


def _split(page: Path, name: str) -> tuple[str, str, str]:
    begin, end = (f"<!-- {name}: {place} -->\n" for place in ("begin", "end"))
    before, found, rest = page.read_text(encoding="utf-8").partition(begin)
    section, also_found, after = rest.partition(end)
    if not (found and also_found) or begin in rest or end in before + after:
        raise ValueError(f"{page} needs one section {name}")
    return before + begin, section, end + after
