"""Draws a profile as a flame graph: an SVG of its own, without a script, and a page with two of each part.

The outermost function is at the top. A function is as wide as its share of the samples, and stands below the
one that called it. Colours say whose code it is; the file in each name says so, too.
"""

import sys
from collections.abc import Iterator, Mapping
from html import escape
from pathlib import Path
from string import Template

from loadtest.report.profiles import WHOLE
from loadtest.report.result import Frame, Profile

WIDTH, ROW = 1200, 18
MIN_WIDTH = 1.0  # of a function; narrower ones would be lines
CHARACTER = 6.6  # the width of one, in a monospaced font of 11 px
FILLS = {"instachat": "#f2b880", "library": "#a9c8ef", "python": "#d3d6db"}
"""By whose code it is: light fills, on which dark text is readable on light and on dark pages."""
OWN = ("backend", "instachat_cli")
ABOUT = (
    "Moments in which Python ran, not those in which it waited. A function is as wide as its share of them,"
    " below the one that called it; point at it for its name. Orange: this program, blue: libraries, grey:"
    " Python's own."
)
COMPARISON = Template(Path(__file__).with_name("flames.html").read_text(encoding="utf-8"))


def flame_figure(profile: Profile) -> str:
    """The HTML of a flame graph and what it is of."""
    share = profile.samples / (profile.seconds * profile.rate) if profile.seconds else 0.0
    return (
        f'<figure class="flame" tabindex="0" aria-label="Flame graph of the {escape(profile.of)}">'
        f"<figcaption>{escape(profile.of)}: Python ran in {share:.0%} of {profile.seconds:.0f} s"
        f" ({profile.samples:,} samples)</figcaption>{flame_graph(profile)}</figure>"
    )


def comparison_page(before: Mapping[str, Profile], after: Mapping[str, Profile]) -> str:
    """A self-contained page with the flame graphs of each part of the program beside each other."""
    rows = [
        f"<h2>{escape(part)}</h2><div>"
        + "".join(
            f"<section><h3>{when}</h3>{flame_figure(side[part]) if part in side else 'no profile'}"
            "</section>"
            for when, side in (("before", before), ("after", after))
        )
        + "</div>"
        for part in sorted(before.keys() | after.keys())
    ]
    return COMPARISON.substitute(about=escape(ABOUT), parts="\n".join(rows))


def flame_graph(profile: Profile) -> str:
    """The SVG element."""
    total = profile.samples or 1
    deepest, shapes = 0, []
    for frame, left in _placed(profile.frames):
        x, width = WIDTH * left / total, WIDTH * frame.samples / total
        if width >= MIN_WIDTH:
            deepest = max(deepest, frame.depth)
            shapes.append(_shape(frame, x, width, frame.samples / total))
    height = (deepest + 1) * ROW
    label = f"Flame graph of the {profile.of}, {profile.samples:,} samples"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img"'
        f' aria-label="{escape(label)}" font-family="ui-monospace, monospace" font-size="11">'
        f"{''.join(shapes)}</svg>"
    )


def _placed(frames: list[Frame]) -> Iterator[tuple[Frame, int]]:
    """Each frame with the number of samples on its left."""
    free = [0]  # where the next frame of each depth begins
    for frame in frames:
        left = free[frame.depth]
        free[frame.depth :] = [left + frame.samples, left]
        yield frame, left


def _shape(frame: Frame, x: float, width: float, share: float) -> str:
    y = frame.depth * ROW
    room = int((width - 6) / CHARACTER)
    name = frame.name if len(frame.name) <= room else f"{frame.name[: room - 1]}…"
    text = (
        f'<text x="{x + 3:.1f}" y="{y + 13}" fill="#1b1f24">{escape(name)}</text>'
        if room > 2
        else ""
    )
    return (
        f"<g><title>{escape(frame.name)}: {share:.1%}, {frame.samples:,} samples</title>"
        f'<rect x="{x:.1f}" y="{y}" width="{max(width - 0.5, 0.5):.1f}" height="{ROW - 1}"'
        f' fill="{FILLS[_whose(frame.name)]}"/>{text}</g>'
    )


def _whose(name: str) -> str:
    """Whose code a function is, by its file, as in `accept (backend/ingest/accept.py)`."""
    package = name.rpartition("(")[2].partition("/")[0].removesuffix(")").removesuffix(".py")
    if package in OWN:
        return "instachat"
    is_python = name == WHOLE or package in sys.stdlib_module_names or package.startswith("<")
    return "python" if is_python else "library"
