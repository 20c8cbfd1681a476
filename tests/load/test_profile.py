"""Profiles: what a profiler's text says, how it is drawn and compared, and a real process that is sampled."""

import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import psutil
import pytest

from loadtest.errors import Unusable
from loadtest.report.flame import WIDTH, comparison_page, flame_graph
from loadtest.report.profiles import merged, profiles_by_part, self_shares, where_the_time_went
from loadtest.report.result import Frame, Profile, Window, dumps
from loadtest.run.faults import Target
from loadtest.run.local_processes import server_processes
from loadtest.run.profiler import Profiler
from loadtest.run.stacks import MAX_FRAMES, frames
from tests.load.conftest import run_bench
from tests.load.test_parts import RESULT
from tests.support.waiting import wait_until

TEXT = """\
process 1:"python -m it";run (backend/a.py:3);parse (json/decoder.py:9) 30
process 1:"python -m it";process 2:"python -c import x; x.main(a=1)";run (backend/a.py:3) 60
run (backend/a.py:7);draw <&> (library/b.py:1) 10
process 1:"python -m it" 0
no stack
"""
SPIN = """
import ctypes, sys, time
if sys.platform == "linux":  # where only descendants may be traced, allow all
    ctypes.CDLL(None).prctl(0x59616D61, ctypes.c_ulong(-1))
def spin():
    while True:
        sum(range(1000))
spin()
"""

UP = """
import subprocess, sys
wait = "import sys; sys.stdin.read()"
listen = (
    "import socket, sys; s = socket.create_server(('127.0.0.1', 0));"
    "print(s.getsockname()[1], flush=True); sys.stdin.read()"
)
worker = subprocess.Popen([sys.executable, "-c", wait, "instachat", "worker"])
subprocess.run([sys.executable, "-c", listen, "instachat", "serve"])
worker.wait()
"""


def profile(text: str, of: str = "server") -> Profile:
    """The profile of a profiler's text."""
    found = frames(text)
    return Profile(of=of, seconds=10.0, rate=100, samples=found[0].samples, frames=found)


def test_stacks_of_all_processes_become_one_tree() -> None:
    """Without the profiler's own frames, and without lines, which any change of a file moves."""
    assert frames(TEXT) == [
        Frame(0, "all", 100),
        Frame(1, "run (backend/a.py)", 100),
        Frame(2, "draw <&> (library/b.py)", 10),
        Frame(2, "parse (json/decoder.py)", 30),
    ]
    assert frames("") == []


def test_a_profile_is_bounded() -> None:
    """Rare functions are left out first; no function stands without the one that called it."""
    deep = "".join(f";f{depth}" for depth in range(300))
    rare = "".join(f"rare{n} 1\n" for n in range(900))
    kept = frames(f"often{deep} 100\n{rare}")
    assert {frame.name for frame in kept if frame.depth == 1} == {"often"}
    assert max(frame.depth for frame in kept) == 100
    many = frames("".join(f"a{n};b{n} 1\n" for n in range(400)) * 1)
    assert len(many) == 801
    wide = "".join(f"a{n};" + ";".join(f"b{k}" for k in range(9)) + " 9\n" for n in range(300))
    bounded = frames(wide)
    assert len(bounded) == MAX_FRAMES
    for place, frame in enumerate(bounded[1:], 1):
        assert frame.depth <= bounded[place - 1].depth + 1


def test_the_flame_graph_is_an_image_without_a_script() -> None:
    """Each function has its share of the width below its caller, and its whole name to point at."""
    svg = flame_graph(profile(TEXT))
    root = ElementTree.fromstring(svg)
    tags = {element.tag.rpartition("}")[2] for element in root.iter()}
    assert tags == {"svg", "g", "title", "rect", "text"}
    shapes = [
        (
            str(title.text).split(":")[0],
            float(box.attrib["x"]),
            round(float(box.attrib["width"])),
        )
        for title, box, *_ in root
    ]
    assert shapes == [
        ("all", 0, WIDTH),
        ("run (backend/a.py)", 0, WIDTH),
        ("draw <&> (library/b.py)", 0, WIDTH / 10),
        ("parse (json/decoder.py)", WIDTH / 10, 3 * WIDTH / 10),
    ]
    fills = {box.attrib["fill"] for _, box, *_ in root}
    assert len(fills) == 3  # this program, a library, Python


def test_profiles_are_added_up_and_compared() -> None:
    """By the time that each function took itself."""
    before = profile(TEXT)
    assert self_shares(before) == {
        "run (backend/a.py)": 0.6,
        "draw <&> (library/b.py)": 0.1,
        "parse (json/decoder.py)": 0.3,
    }
    both = merged([before, before])
    assert both
    assert (both.samples, both.seconds, self_shares(both)) == (200, 20.0, self_shares(before))
    after = profile("run (backend/a.py);parse (json/decoder.py) 50\nrun (backend/a.py) 50")
    sides = [[replace(RESULT, profiles=[side])] for side in (before, after)]
    lines = [line for line in where_the_time_went(*sides) if line.startswith("| `")]
    assert lines == [
        "| `parse (json/decoder.py)` | 30.0% | 50.0% |",
        "| `draw <&> (library/b.py)` | 10.0% | 0.0% |",
        "| `run (backend/a.py)` | 60.0% | 50.0% |",
    ]
    assert list(where_the_time_went(sides[0], [RESULT])) == []
    page = comparison_page(*map(profiles_by_part, sides))
    assert page.count("<svg") == 2
    assert "<script" not in page


def test_compare_writes_both_flame_graphs(tmp_path: Path) -> None:
    """Beside the table, if both sides have profiles."""
    files = [tmp_path / name for name in ("a.json", "b.json", "none.json")]
    for file, of in zip(files, ([profile(TEXT)], [profile(TEXT)], []), strict=True):
        file.write_text(dumps(replace(RESULT, profiles=of)))
    page = tmp_path / "flames.html"
    done = run_bench("compare", *files[:2], "--flames", page, "-o", "markdown")
    assert done.code == 0, done.err
    assert "| time of the server in | before | after |" in done.out
    assert page.read_text().count("<svg") == 2


@pytest.fixture
def children() -> Iterator[dict[Target, list[psutil.Process]]]:
    """A server that runs Python all the time, and a worker that is no Python program."""
    commands = {Target.SERVER: [sys.executable, "-c", SPIN], Target.WORKER: ["sleep", "600"]}
    started = {target: psutil.Popen(command) for target, command in commands.items()}
    yield {target: [process] for target, process in started.items()}
    for process in started.values():
        process.kill()
        process.wait()


def test_a_process_is_sampled_and_one_that_can_not_be_is_named(
    children: dict[Target, list[psutil.Process]], tmp_path: Path
) -> None:
    """By the real profiler. A run goes on without a profile of a process that can't be traced."""
    (server,) = children[Target.SERVER]
    wait_until(lambda: server.cpu_times().user > 0.1)  # it has begun to spin
    said: list[str] = []
    profiler = Profiler(
        Target,
        lambda target: children.get(target, []),
        tmp_path,
        Window(0, 3600),
        time.monotonic(),
        said.append,
    )
    wait_until(lambda: _samples(tmp_path))
    until = server.cpu_times().user + 0.3
    wait_until(lambda: server.cpu_times().user > until)
    profiler.stop()
    (found,) = profiler.profiles
    assert found.of == "server"
    assert any(frame.name == "spin (<string>)" for frame in found.frames)
    (problem,) = profiler.problems
    assert said == [problem]
    assert problem.startswith("there is no profile of the worker: ")
    assert not [p for p in psutil.Process().children() if "py-spy" in " ".join(p.cmdline())]


def test_the_server_at_an_address_and_its_worker_are_found() -> None:
    """By the port that it listens on, and as children of one `instachat up`."""
    started = subprocess.Popen(
        [sys.executable, "-c", UP], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert started.stdout
        address = f"http://127.0.0.1:{int(started.stdout.readline())}"
        find = server_processes(address)
        for target, command in ((Target.SERVER, "serve"), (Target.WORKER, "worker")):
            (process,) = find(target)
            assert process.cmdline()[-1] == command
    finally:
        started.communicate()  # closes its input, which ends all of them
    with pytest.raises(Unusable, match="no process of this machine"):
        server_processes(address)


def _samples(folder: Path) -> bool:
    """Whether the profiler says that it samples."""
    log = folder / "profile-server.log"
    return log.exists() and b"Sampling" in log.read_bytes()
