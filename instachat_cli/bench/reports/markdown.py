"""Parts that the reports share."""

from collections.abc import Mapping


def amount(value: float) -> str:
    """A value with three significant digits, or as a whole number from 100 on."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def machine_section(facts: Mapping[str, str]) -> list[str]:
    """The facts of the machine as a section with a table."""
    lines = ["## The machine", "", "| | |", "| --- | --- |"]
    return [*lines, *(f"| {name} | {value} |" for name, value in facts.items()), ""]
