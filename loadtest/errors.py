"""Reasons why a run could not be made. What a run has found is not an error but part of its result."""


class CouldNotRun(Exception):
    """Nothing was measured: the load could not be made, or its records could not be read."""


class Unreachable(CouldNotRun):
    """The server does not answer."""


class Unusable(CouldNotRun):
    """The server, or the load generator, does not do what a run needs."""


class UnexpectedAnswer(Unusable):
    """An answer has a good status, but not the value that the adapter says it has."""
