"""Chromium, for tests of pages."""

import os
import shutil
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, sync_playwright

from tests.conftest import skip_absent


@pytest.fixture(scope="module")  # Playwright's event loop excludes any other one of the process
def chromium() -> Iterator[Browser]:
    """The Chromium of this machine."""
    path = shutil.which("chromium")
    if path is None:
        skip_absent("Chromium")
    arguments = (
        ["--no-sandbox"] if os.geteuid() == 0 else []
    )  # Chromium refuses to run as root with one
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=arguments)
        yield browser
        browser.close()
