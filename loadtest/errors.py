"""Why a run could not be made, as opposed to what a run has found."""

MAX_ERROR_LINES = 3


def last_error_lines(output: str) -> str:
    """The last lines in which a program told of an error, or else its last ones, as one line."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line for line in lines if "error" in line.lower()]
    return " · ".join((errors or lines)[-MAX_ERROR_LINES:]) or "nothing"


class CouldNotRun(Exception):
    """Nothing was found out: the load could not be made, or what it left could not be read."""


class Unreachable(CouldNotRun):
    """The server does not answer."""


class Unusable(CouldNotRun):
    """The server, or the generator, does not do what a run needs."""
