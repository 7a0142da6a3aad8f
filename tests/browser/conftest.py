"""The service's page in Chromium."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page
from webpage import launched, opened


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """One browser a module."""
    with launched() as browser:
        yield browser


@pytest.fixture
def page(chromium: Browser, server, request: pytest.FixtureRequest) -> Iterator[Page]:
    """The service's page."""
    with opened(chromium, server.url, request.node.name) as page:
        yield page
