"""Homes of private engines with unusual paths, and the folders of their sockets."""

import os
import stat
from pathlib import Path

import pytest

from backend.domain.errors import Invalid
from backend.embedded.engines import short_socket_folder
from backend.embedded.home import Layout
from tests.support.private_engines import (
    AS_ROOT,
    NOBODY_UID,
    acquired,
    engines_uid,
    find_supervisor,
    has_both,
    home_moved_to,
    kill,
    query_value,
    write_both,
)

pytestmark = pytest.mark.faults


@pytest.mark.parametrize(
    "name",
    [
        "a b%20c%d 'e' \"f\" \\g +h&i?j=k#l;m$n`o*[p]",
        "خانه-家-é",
        "one,two:5432",
        "caf\udce9",  # as a name looks that is not UTF-8
        "x" * 120,
    ],
    ids=["odd", "foreign", "list-like", "not UTF-8", "long"],
)
def test_a_home_may_have_any_path(tmp_folder: Path, shared_home: Path, name: str) -> None:
    with home_moved_to(shared_home, tmp_folder / name / "home") as home:
        with acquired(home) as engines:
            kept = write_both(engines)
            kill(find_supervisor(home))
            with acquired(home):
                assert has_both(engines, kept)
        assert not short_socket_folder_of(home).exists()


def test_data_can_be_created_in_a_home_whose_path_has_special_characters(tmp_folder: Path) -> None:
    with acquired(tmp_folder / "a b%20c%d 'e' \"f\" é" / "home", valkey=False) as engines:
        assert query_value(engines, "SELECT 1") == 1


def short_socket_folder_of(home: Path) -> Path:
    return short_socket_folder(Layout.of(home), engines_uid())


def test_the_sockets_of_a_home_with_a_long_path_are_in_a_private_folder(tmp_folder: Path) -> None:
    home = tmp_folder / ("x" * 120) / "home"
    with acquired(home, postgres=False) as engines:
        assert engines.redis_url
        folder = short_socket_folder_of(home)
        assert str(folder) in engines.redis_url
        found = folder.lstat()
        assert (found.st_mode, found.st_uid) == (stat.S_IFDIR | 0o700, engines_uid())
    assert not folder.exists()


@pytest.mark.parametrize("trap", ["open", "link", "foreign"])
def test_a_socket_folder_that_another_user_could_control_is_refused(
    tmp_folder: Path, trap: str
) -> None:
    home = tmp_folder / ("x" * 120) / "home"
    folder = short_socket_folder_of(home)
    try:
        if trap == "link":
            target = tmp_folder / "target"
            target.mkdir(0o700)
            os.chown(target, engines_uid(), -1)
            folder.symlink_to(target)
        else:
            folder.mkdir(0o700)
        if trap == "open":
            folder.chmod(0o777)
        if trap == "foreign":
            if not AS_ROOT:
                pytest.skip("only root can make another user's folder")
            os.chown(folder, NOBODY_UID, -1)
        with pytest.raises(Invalid) as refusal, acquired(home):
            pass
        assert str(folder) in refusal.value.message
    finally:
        folder.unlink() if trap == "link" else folder.rmdir()


def test_a_home_whose_path_has_a_line_break_is_refused(tmp_folder: Path) -> None:
    with pytest.raises(Invalid, match="control character"), acquired(tmp_folder / "a\nb"):
        pass
