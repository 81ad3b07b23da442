"""Debian's Chromium, driven by Playwright: one page, and what it asked for and complained of."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

_WAIT_MS = 40_000


@dataclass
class Looked:
    """A page in the browser."""

    page: Page
    address: str
    complaints: list[str] = field(default_factory=list)
    """Errors and warnings in its console, and exceptions that nobody caught."""
    hosts: set[str] = field(default_factory=set)
    """What its requests went to."""

    def says(self, selector: str, words: str) -> None:
        """Wait until an element says so."""
        pattern = re.compile(re.escape(words), re.I)
        expect(self.page.locator(selector)).to_contain_text(pattern, timeout=_WAIT_MS)

    def figure(self, feed: str, name: str) -> str:
        """A figure on a feed's card."""
        card = self.page.locator(f".card[data-feed={feed}] .figures > div")
        return card.filter(has_text=re.compile(f"^{name}")).locator("dd").inner_text()

    def book(self, name: str) -> str:
        """A figure in a feed's own view."""
        return self.page.locator(f"[data-figure={name}] dd").inner_text()


@contextmanager
def browsing() -> Iterator[Browser]:
    """A headless browser; the test is skipped where there is no Chromium."""
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("needs Chromium (Debian's package chromium)")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium, args=["--no-sandbox", "--disable-gpu"]
        )
        yield browser
        browser.close()


@contextmanager
def looked_at(
    browser: Browser,
    address: str,
    *,
    width: int = 1280,
    height: int = 900,
    scheme: Literal["dark", "light"] = "dark",
) -> Iterator[Looked]:
    """The page at ``address``, open in a context of its own."""
    page = browser.new_page(
        viewport={"width": width, "height": height},
        color_scheme=scheme, reduced_motion="reduce", locale="en-GB",
    )  # fmt: skip
    page.set_default_timeout(_WAIT_MS)
    seen = Looked(page, address.partition("#")[0])
    page.on("console", lambda said: _console(seen, said.type, said.text))
    page.on("pageerror", lambda error: seen.complaints.append(str(error)))
    page.on("request", lambda request: seen.hosts.add(urlsplit(request.url).netloc))
    page.goto(address)
    try:
        yield seen
    finally:
        page.context.close()


def _console(seen: Looked, kind: str, words: str) -> None:
    if kind in ("error", "warning"):
        seen.complaints.append(words)
