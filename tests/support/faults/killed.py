"""A simulated kill inside the test's own process."""


class Killed(BaseException):
    """Ends an operation where a kill would; no `except Exception` handles it."""
