"""The site of the documentation builds without a warning and asks no other host for anything."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest

import kleinod

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
FOREIGN = re.compile(r"^\s*(https?:)?//", re.IGNORECASE)


class _Loaded(HTMLParser):
    """What a browser loads by itself; a plain link or a social card's text is not."""

    def __init__(self) -> None:
        super().__init__()
        self.urls: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """HTMLParser calls this with each tag."""
        if tag != "a":
            names = ("src", "href", "srcset", "data", "poster", "action")
            self.urls += [value for name, value in attrs if name in names and value]


def _loaded(html: str) -> list[str]:
    parser = _Loaded()
    parser.feed(html)
    return parser.urls


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    # nothing answers there, so that a build that needs the network fails
    nowhere = dict.fromkeys(("http_proxy", "https_proxy", "ALL_PROXY"), "http://127.0.0.1:9")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=os.environ | nowhere | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr, done.stderr
    return folder


def _pages(site: Path) -> Iterator[tuple[Path, str]]:
    for page in site.rglob("*.html"):
        yield page, page.read_text(encoding="utf-8")


@pytest.mark.slow
def test_every_page_is_built(site: Path) -> None:
    for page in DOCS.rglob("*.md"):
        name = "index" if page.name == "README.md" else page.stem
        assert (site / page.relative_to(DOCS)).with_name(f"{name}.html").exists(), page


@pytest.mark.slow
def test_site_loads_nothing_from_elsewhere(site: Path) -> None:
    for page, text in _pages(site):
        assert not [url for url in _loaded(text) if FOREIGN.match(url)], page
    for sheet in site.rglob("*.css"):
        text = sheet.read_text(encoding="utf-8")
        assert not re.search(r"@import|url\(\s*[\"']?(https?:)?//", text), sheet


@pytest.mark.parametrize(
    ("html", "is_foreign"),
    [
        ('<link href="https://fonts.example.com/css">', True),
        ('<script src="//cdn.example.com/x.js"></script>', True),
        ('<img srcset="HTTP://host.example/x.png 2x">', True),
        ('<a href="https://host.example/">a</a>', False),
        ('<img src="gallery.png">', False),
    ],
)
def test_check_of_foreign_hosts_sees_them(html: str, is_foreign: bool) -> None:
    assert any(FOREIGN.match(url) for url in _loaded(html)) == is_foreign


@pytest.mark.slow
def test_api_page_has_a_docstring_for_every_public_name(site: Path) -> None:
    page = (site / "api.html").read_text(encoding="utf-8")
    for name in kleinod.__all__:
        assert f'id="kleinod.{name}"' in page, f"add ::: kleinod.{name} to docs/api.md"
        first = (getattr(kleinod, name).__doc__ or "").strip().split("\n")[0]
        words = re.findall(r"\w{5,}", first)[:3]
        assert words and all(word in page for word in words), name


def test_every_page_is_in_the_navigation() -> None:
    config = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    named = set(re.findall(r": (\S+\.md)$", config, re.MULTILINE))
    pages = {page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md")}
    # its index leads to each measurement
    assert named == {page for page in pages if not page.startswith("log/2")}
