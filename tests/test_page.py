"""The page in a real browser: type, paint, drop a reference, edit, cancel, call the API."""

import io
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from http_pictures import as_base64, picture
from http_server import Server
from PIL import Image
from playwright.sync_api import Browser, Page, Route, expect, sync_playwright
from system_programs import find_chromium

pytestmark = pytest.mark.browser
# on a machine that has much else to do
PATIENCE_MILLISECONDS = 120_000
PATIENCE_SECONDS = PATIENCE_MILLISECONDS / 1000
# more than are painted before somebody has pressed Cancel, on any machine
MANY_STEPS = 100


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A headless Chromium: the system's, for the tests download none of their own."""
    chromium = find_chromium()
    expect.set_options(timeout=PATIENCE_MILLISECONDS)
    with sync_playwright() as playwright:
        # the tests run as root in containers, where the sandbox cannot start
        made = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield made
        made.close()


@pytest.fixture
def page(browser: Browser, server: Server) -> Iterator[Page]:
    """The page, ready to paint; it must not complain, nor ask any other server."""
    context = browser.new_context()
    context.set_default_timeout(PATIENCE_MILLISECONDS)
    made = context.new_page()
    complaints: list[str] = []
    made.on("console", lambda message: complaints.extend(_unexpected(message.text)))
    made.on("pageerror", lambda error: complaints.append(str(error)))
    made.on("request", lambda request: complaints.extend(_foreign(request.url, server.url)))
    made.goto(server.url)
    expect(made.get_by_role("button", name="Paint")).to_be_enabled()
    yield made
    context.close()
    assert complaints == []


def _unexpected(message: str) -> list[str]:
    """The browser notes a refusal itself; anything else is a fault of the page."""
    return [] if "the server responded with a status of 422" in message else [message]


def _foreign(url: str, own: str) -> list[str]:
    return [] if url.startswith((own, "blob:", "data:")) else [url[:200]]


def paint(page: Page, prompt: str, seed: int = 7) -> np.ndarray:
    """Type, press the button, wait; the picture's pixels as the page would save them."""
    page.get_by_label("Prompt", exact=True).fill(prompt)
    page.get_by_label("Seed", exact=True).fill(str(seed))
    page.get_by_role("button", name="Paint").click()
    expect(page.get_by_role("status")).to_contain_text(f"seed {seed},")
    expect(page.get_by_role("button", name="Paint")).to_be_enabled()
    with page.expect_download() as download:
        page.get_by_role("link", name="Download").click()
    assert download.value.suggested_filename == f"kleinod-{seed}.png"
    return pixels(Path(download.value.path()).read_bytes())


def begin_to_paint_slowly(page: Page) -> None:
    """Press the button for a large picture; the page sets no steps, so they are added here."""

    def with_many_steps(route: Route) -> None:
        route.continue_(post_data=route.request.post_data_json | {"steps": MANY_STEPS})

    page.route("**/v1/mini", with_many_steps)
    page.get_by_label("Size", exact=True).select_option(label="own …")
    page.get_by_label("Width", exact=True).fill("512")
    page.get_by_label("Height", exact=True).fill("512")
    page.get_by_role("button", name="Paint").click()


def pixels(data: bytes) -> np.ndarray:
    """Of a picture file, 8-bit RGB."""
    with Image.open(io.BytesIO(data)) as opened:
        return np.asarray(opened.convert("RGB"))


def drop(page: Page, *files: bytes) -> None:
    """Let picture files fall onto the page."""
    transfer = page.evaluate_handle(
        """(files) => {
            const transfer = new DataTransfer();
            files.forEach((text, index) => {
                const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
                const name = `dropped ${index}.png`;
                transfer.items.add(new File([bytes], name, { type: "image/png" }));
            });
            return transfer;
        }""",
        [as_base64(data) for data in files],
    )
    page.dispatch_event("#drop", "drop", {"dataTransfer": transfer})


def test_paints_and_shows_the_call_that_paints_the_same(page: Page, tmp_path: Path) -> None:
    shown = paint(page, 'it\'s a "fox" on a $blue background')
    page.get_by_text("Call the API for just this picture").click()
    command = page.locator("#code").inner_text()
    subprocess.run(["sh", "-c", command], check=True, cwd=tmp_path, timeout=PATIENCE_SECONDS)
    assert np.array_equal(shown, pixels((tmp_path / "kleinod-7.png").read_bytes()))


@pytest.mark.parametrize("tab", ["Python, OpenAI", "Python, BFL"])
def test_python_calls_paint_the_same(page: Page, tmp_path: Path, tab: str) -> None:
    reference = picture()
    drop(page, reference)
    shown = paint(page, "change the background to yellow")
    page.get_by_text("Call the API for just this picture").click()
    page.get_by_role("tab", name=tab).click()
    code = page.locator("#code").inner_text()
    (tmp_path / "dropped_0.png").write_bytes(reference)
    command = [sys.executable, "-c", code]
    subprocess.run(command, check=True, cwd=tmp_path, timeout=PATIENCE_SECONDS)
    assert np.array_equal(shown, pixels((tmp_path / "kleinod-7.png").read_bytes()))


def test_dropped_references_are_seen_used_and_removed(page: Page) -> None:
    first = paint(page, "a fox on a blue background")
    page.get_by_role("button", name="Use as reference").click()
    drop(page, picture(size=(100, 80)))
    expect(page.locator("#references li")).to_have_count(2)
    page.get_by_role("button", name="Remove reference 2").click()
    expect(page.locator("#references li")).to_have_count(1)
    edited = paint(page, "change the background to yellow", seed=8)
    assert edited.shape == first.shape
    assert not np.array_equal(edited, first)
    expect(page.locator("#history li")).to_have_count(2)
    page.locator("#history button").nth(1).click()
    expect(page.get_by_role("status")).to_contain_text("seed 7,")


def test_preview_grows_and_cancel_stops_it(page: Page) -> None:
    begin_to_paint_slowly(page)
    expect(page.locator("#picture.preview")).to_be_visible()
    expect(page.get_by_role("status")).to_contain_text(f"of {MANY_STEPS}")
    page.get_by_role("button", name="Cancel").click()
    expect(page.get_by_role("status")).to_have_text("Cancelled.")
    expect(page.get_by_text("Your picture appears here.")).to_be_visible()
    expect(page.get_by_role("button", name="Paint")).to_be_enabled()


def test_cancelled_picture_leaves_the_last_one(page: Page) -> None:
    paint(page, "a fox")
    page.get_by_label("Seed", exact=True).fill("9")
    begin_to_paint_slowly(page)
    expect(page.locator("#picture.preview")).to_be_visible()
    page.get_by_role("button", name="Cancel").click()
    expect(page.get_by_role("status")).to_have_text("Cancelled.")
    expect(page.get_by_role("img", name="a fox").first).to_be_visible()
    assert "128x128" in page.locator("#code").text_content()


def test_server_s_refusal_is_shown(page: Page) -> None:
    drop(page, picture(size=(32, 32)))
    page.get_by_role("button", name="Paint").click()
    expect(page.get_by_role("alert")).to_contain_text("under 64 pixels")


def test_every_control_has_a_name(page: Page) -> None:
    paint(page, "a fox")
    nameless = page.evaluate(
        """() => [...document.querySelectorAll("input, select, textarea, button, a")]
            .filter((one) => !one.closest("[hidden]"))
            .filter((one) => !(one.labels?.length || one.ariaLabel || one.textContent.trim()
                || one.querySelector("img[alt]:not([alt=''])")))
            .map((one) => one.outerHTML)"""
    )
    assert nameless == []


def _dropped(page: Page, name: str, kind: str, data: bytes = b"data") -> None:
    """A file dropped on the page."""
    page.locator("#files").set_input_files({"name": name, "mimeType": kind, "buffer": data})


@pytest.mark.parametrize(
    ("name", "kind", "words"),
    [
        ("notes.txt", "text/plain", "notes.txt: no picture; PNG, JPEG"),
        ("IMG_0001.HEIC", "image/heic", "HEIC (an iPhone's format) is not read here; save it"),
        ("IMG_0001.heic", "", "HEIC (an iPhone's format) is not read here"),
        ("a.jxl", "image/jxl", "JPEG XL is not read here"),
        ("a.tif", "image/tiff", "TIFF is not read here"),
        ("archive", "", "archive: no picture"),
    ],
)
def test_file_that_is_no_picture_gets_a_word(page: Page, name: str, kind: str, words: str) -> None:
    _dropped(page, name, kind)
    expect(page.locator("#refused")).to_contain_text(words)
    expect(page.locator("#references li")).to_have_count(0)
    _dropped(page, "a.png", "image/png", picture())
    expect(page.locator("#references li")).to_have_count(1)
    expect(page.locator("#refused")).to_have_text("")


def test_api_is_described_on_a_page(page: Page, server: Server) -> None:
    page.goto(f"{server.url}/docs")
    for path in ("/v1/images/generations", "/v1/images/edits", "/v1/{model}", "/healthz"):
        expect(page.get_by_role("heading", name=path, exact=False).first).to_be_visible()
    expect(page.get_by_role("cell", name="negative_prompt", exact=True).first).to_be_visible()
    expect(page.get_by_text("multipart/form-data").first).to_be_visible()
    expect(page.locator("#error")).to_have_text("")


def test_things_to_try_fill_the_prompt_and_an_unknown_word_is_said(page: Page) -> None:
    page.get_by_role("button", name="a castle, flat style").click()
    expect(page.get_by_label("Prompt", exact=True)).to_have_value("a castle, flat style")
    page.get_by_text("All that it knows").click()
    page.get_by_role("button", name="magnifying glass", exact=True).click()
    expect(page.get_by_label("Prompt", exact=True)).to_have_value(
        "a castle, flat style magnifying glass"
    )
    paint(page, "a knight")
    expect(page.locator("#warnings")).to_contain_text("mini does not know: knight")
