"""Version numbers as servers report them."""


def parse_version(version: str) -> tuple[int, int]:
    """Return the major and minor number of a version such as `8.19.2`; ValueError for any other text."""
    major, minor = version.split(".")[:2]
    return int(major), int(minor)
