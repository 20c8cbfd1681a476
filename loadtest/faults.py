"""Why a run could not be made, as opposed to what a run has found."""


class CouldNotRun(Exception):
    """Nothing was found out: the load could not be made, or what it left could not be read."""


class Unreachable(CouldNotRun):
    """The server does not answer."""


class Unusable(CouldNotRun):
    """The server, or the generator, does not do what a run needs."""
