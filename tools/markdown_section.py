"""A part of a page that a program writes, between two comments that name it."""

from pathlib import Path


def replace_section(page: Path, name: str, text: str) -> None:
    """Replace what is between `<!-- NAME: begin -->` and `<!-- NAME: end -->`, each on a line of its own.

    Raises ValueError, and changes nothing, if the page does not have each of them once.
    """
    begin, end = (f"<!-- {name}: {place} -->\n" for place in ("begin", "end"))
    before, found, rest = page.read_text(encoding="utf-8").partition(begin)
    _, also_found, after = rest.partition(end)
    if not (found and also_found) or begin in rest or end in before + after:
        raise ValueError(f"{page} needs one section {name}")
    page.write_text(f"{before}{begin}\n{text}\n\n{end}{after}", encoding="utf-8")
