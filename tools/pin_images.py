"""Pins the images that Dockerfile and compose.yaml name by digest: `NAME:TAG` becomes `NAME:TAG@sha256:…`.

`make images` runs it; run it again to take what the tags name by then. It asks the registries through Docker,
without its daemon. Unless each of them answers, it changes nothing.
"""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FILES = ("Dockerfile", "compose.yaml")
BUILT_HERE = "instachat:"
DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_IMAGE = re.compile(r"^(?P<before>FROM +| +image: +)(?P<name>[^\s@]+)(?:@\S+)?", re.MULTILINE)


def find_images(text: str) -> list[str]:
    """The names and tags of the images that a file takes from registries."""
    names = [found["name"] for found in _IMAGE.finditer(text)]
    return [name for name in names if not name.startswith(BUILT_HERE)]


def read_digest(image: str) -> str:
    """What a registry has under a name and a tag, for all platforms. Raises SystemExit if it does not say."""
    command = ["docker", "buildx", "imagetools", "inspect", image]
    try:
        found = subprocess.run(
            [*command, "--format", "{{.Manifest.Digest}}"],
            capture_output=True,
            text=True,
            check=False,
        )
    except FileNotFoundError:
        raise SystemExit("pin_images: this needs Docker with buildx") from None
    digest = found.stdout.strip()
    if found.returncode or not DIGEST.fullmatch(digest):
        raise SystemExit(f"pin_images: {image}: {found.stderr.strip() or 'no digest'}")
    return digest


def pinned(text: str, digests: dict[str, str]) -> str:
    """A file in which each of these images has its digest."""

    def pin(found: re.Match[str]) -> str:
        digest = digests.get(found["name"])
        return f"{found['before']}{found['name']}@{digest}" if digest else found[0]

    return _IMAGE.sub(pin, text)


def main(root: Path = ROOT) -> None:
    """Pin the images of both files."""
    texts = {root / name: (root / name).read_text() for name in FILES}
    images = dict.fromkeys(image for text in texts.values() for image in find_images(text))
    digests = {image: read_digest(image) for image in images}
    for path, text in texts.items():
        path.write_text(pinned(text, digests))
    for image, digest in digests.items():
        print(f"{image}@{digest}")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
