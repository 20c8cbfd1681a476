"""The packages of an extra, which an installation may lack."""

from importlib.util import find_spec

from backend.domain.errors import Failed

BENCH_MODULES = ("locust", "matplotlib", "urllib3")


def has_bench() -> bool:
    """Whether the extra `bench` is installed: the load generator and the plots."""
    return all(find_spec(name) for name in BENCH_MODULES)  # imports nothing


def require_bench(command: str) -> None:
    """Raise Failed, naming the extra, if the command lacks the packages of the extra `bench`."""
    if not has_bench():
        raise Failed(
            f"`{command}` needs packages of the extra `bench`, which is not installed",
            "install `instachat[bench]`, for example by `pipx install --force 'instachat[engines,bench]'`",
        )
