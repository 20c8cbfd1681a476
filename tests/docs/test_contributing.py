"""Follows the recipes of CONTRIBUTING.md in a copy of the tree: a command, a setting and a finding."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import Engines

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
RECIPE = re.compile(
    r"<!-- recipe: (?:new file (?P<new>\S+)|insert into (?P<file>\S+) before \"(?P<anchor>[^\"]+)\") -->\n"
    r"```python\n(?P<code>.*?)```",
    re.DOTALL,
)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of the packages that a test may change."""
    for package in ("backend", "instachat_cli", "loadtest"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / package, tmp_path / package, ignore=ignored)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def follow(tree: Path, part: str) -> None:
    """Follow the recipes whose target or code contains `part`."""
    followed = 0
    for recipe in RECIPE.finditer(PAGE):
        if part not in (recipe["new"] or recipe["file"]) + recipe["code"]:
            continue
        followed += 1
        if recipe["new"]:
            (tree / recipe["new"]).write_text(recipe["code"], encoding="utf-8")
            continue
        path = tree / recipe["file"]
        text = path.read_text(encoding="utf-8")
        assert text.count(recipe["anchor"]) == 1, recipe["anchor"]
        path.write_text(text.replace(recipe["anchor"], recipe["code"] + recipe["anchor"]))
    assert followed, part


def run(tree: Path, *words: str, **variables: str) -> "subprocess.CompletedProcess[str]":
    """Run Python in the copy."""
    outside = {k: v for k, v in os.environ.items() if not k.startswith("INSTACHAT_")}
    return subprocess.run(
        [sys.executable, *words],
        cwd=tree,
        env=outside | {"PYTHONPATH": str(tree), "COLUMNS": "200"} | variables,
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_command_is_one_file(tree: Path, engines: Engines) -> None:
    """The help lists the command, its own help shows its example, and it runs."""
    settings = engines.settings()
    urls = {
        "INSTACHAT_DATABASE_URL": str(settings.database_url),
        "INSTACHAT_REDIS_URL": str(settings.redis_url),
    }
    follow(tree, "greet.py")
    assert "Greet an application." in run(tree, "-m", "instachat_cli", "--help").stdout
    assert "instachat greet" in run(tree, "-m", "instachat_cli", "greet", "--help").stdout
    created = run(tree, "-m", "instachat_cli", "apps", "create", "Ada", "-o", "json", **urls)
    token = re.search(r'"token": "([^"]+)"', created.stdout)
    assert token, created.stderr
    greeted = run(tree, "-m", "instachat_cli", "greet", token[1], **urls)
    assert "Hello, Ada" in greeted.stdout, greeted.stderr


def test_a_setting_is_one_field(tree: Path) -> None:
    """The setting is shown with its value and origin, and validated."""
    follow(tree, "settings.py")
    shown = run(tree, "-m", "instachat_cli", "config", "show", INSTACHAT_GREETING_LIMIT="7")
    assert re.search(
        r'INSTACHAT_GREETING_LIMIT", "value": 7, "origin": "environment"', shown.stdout
    ), shown.stdout + shown.stderr
    wrong = run(tree, "-m", "instachat_cli", "config", "show", INSTACHAT_GREETING_LIMIT="0")
    assert wrong.returncode == 2
    assert "INSTACHAT_GREETING_LIMIT" in wrong.stderr


def test_a_finding_without_its_rule_is_a_type_error(tree: Path) -> None:
    """mypy rejects the new member alone, and accepts it with its case."""

    def types() -> "subprocess.CompletedProcess[str]":
        return run(
            *(tree, "-m", "mypy", "--follow-imports=skip", "--cache-dir", str(tree / "cache")),
            "backend/reconcile/findings.py",
        )

    follow(tree, "EXAMPLE_KIND = ")
    forgotten = types()
    assert "EXAMPLE_KIND" in forgotten.stdout, forgotten.stdout
    assert "assert_never" in forgotten.stdout
    follow(tree, "case FindingKind.EXAMPLE_KIND")
    assert types().returncode == 0
