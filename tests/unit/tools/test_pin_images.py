"""Images are pinned by what a registry answers, or not at all."""

import re
from pathlib import Path

import pytest
import yaml

from tools import pin_images

FAKE_DOCKER = """#!/bin/sh
[ "$1 $2 $3" = "buildx imagetools inspect" ] || exit 9
[ "$4" != "$REFUSED" ] || { echo "not to be had" >&2; exit 1; }
printf '%s%s' "$4" "$SALT" | sha256sum | sed 's/^/sha256:/; s/ .*//'
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Copies of the real files, and a Docker that knows each image."""
    for name in pin_images.FILES:
        (tmp_path / name).write_text((pin_images.ROOT / name).read_text())
    docker = tmp_path / "bin" / "docker"
    docker.parent.mkdir()
    docker.write_text(FAKE_DOCKER)
    docker.chmod(0o755)
    monkeypatch.setenv("PATH", str(docker.parent), prepend=":")
    return tmp_path


def images(folder: Path) -> list[str]:
    """The images of both files, as they are written."""
    services = yaml.safe_load((folder / "compose.yaml").read_text())["services"].values()
    stages = re.findall(r"^FROM (\S+)", (folder / "Dockerfile").read_text(), re.MULTILINE)
    return [*stages, *(service["image"] for service in services if "build" not in service)]


def test_each_image_gets_its_digest_and_nothing_else_changes(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second run takes what the tags name by then."""
    before = images(folder)
    original = (folder / "compose.yaml").read_text()
    pin_images.main(folder)
    first = images(folder)
    assert [image.partition("@")[0] for image in first] == [i.partition("@")[0] for i in before]
    assert all(pin_images.DIGEST.fullmatch(image.partition("@")[2]) for image in first)
    assert len(set(first)) == len({image.partition("@")[0] for image in before})
    assert "image: instachat:local\n" in (folder / "compose.yaml").read_text()
    unpinned = re.sub(r"@sha256:\w+", "", (folder / "compose.yaml").read_text())
    assert unpinned == re.sub(r"@sha256:\w+", "", original)
    pin_images.main(folder)
    assert images(folder) == first
    monkeypatch.setenv("SALT", "moved")
    pin_images.main(folder)
    assert not set(images(folder)) & set(first)


def test_an_image_that_no_registry_names_changes_nothing(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = [(folder / name).read_text() for name in pin_images.FILES]
    monkeypatch.setenv("REFUSED", "valkey/valkey:9.0")
    with pytest.raises(SystemExit, match=r"valkey/valkey:9\.0: not to be had"):
        pin_images.main(folder)
    assert [(folder / name).read_text() for name in pin_images.FILES] == before
