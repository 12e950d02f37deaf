"""What is drawn in a terminal is the picture: the tests decode each protocol again."""

import base64
import io
import re
import sys

import numpy as np
import pytest
from PIL import Image

from kleinod.cli import terminal_image
from kleinod.cli.terminal_image import (
    BLOCKS_24_BIT,
    BLOCKS_256,
    ITERM2,
    KITTY,
    SIXEL,
    detect_protocol,
    render,
)

PROTOCOLS = (KITTY, ITERM2, SIXEL, BLOCKS_24_BIT, BLOCKS_256)
SIZES = [(128, 128), (40, 7), (3, 20), (1, 1), (64, 65)]


def picture(width: int, height: int) -> Image.Image:
    """A gradient with sharp corners of pure colours, so that each pixel is at its own place."""
    x, y = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    pixels = np.stack([x, y, 255 - x], axis=-1).astype(np.uint8)
    pixels[: height // 2, : width // 2] = (255, 0, 0)
    pixels[-1, -1] = (0, 255, 0)
    return Image.fromarray(pixels)


def kitty_pixels(text: str) -> tuple[np.ndarray, dict[str, str]]:
    """The chunks' picture, and the first one's keys."""
    body = text.removesuffix("\n")
    parts = re.findall(r"\x1b_G([^;]*);([^\x1b]*)\x1b\\", body)
    assert "".join(f"\x1b_G{keys};{data}\x1b\\" for keys, data in parts) == body
    keys = [dict(pair.split("=") for pair in part[0].split(",")) for part in parts]
    assert [key["m"] for key in keys] == ["1"] * (len(parts) - 1) + ["0"]
    assert all(key["q"] == "2" for key in keys), "the terminal would answer into the prompt"
    assert all(len(data) <= 4096 and len(data) % 4 == 0 for _, data in parts)
    return png_pixels("".join(data for _, data in parts)), keys[0]


def iterm2_pixels(text: str) -> tuple[np.ndarray, dict[str, str]]:
    found = re.fullmatch(r"\x1b\]1337;File=([^:]*):([^\x07]*)\x07\n", text)
    assert found
    keys = dict(pair.split("=") for pair in found[1].split(";"))
    assert int(keys["size"]) == len(base64.b64decode(found[2]))
    return png_pixels(found[2]), keys


def png_pixels(text: str) -> np.ndarray:
    with Image.open(io.BytesIO(base64.b64decode(text, validate=True))) as opened:
        assert opened.format == "PNG"
        return np.asarray(opened.convert("RGB"))


def sixel_pixels(text: str) -> np.ndarray:
    """A decoder after DEC's description; every pixel must be painted."""
    found = re.fullmatch(r'\x1bPq"1;1;(\d+);(\d+)([^\x1b]*)\x1b\\\n', text)
    assert found
    width, height = int(found[1]), int(found[2])
    pixels = np.full((height + 6, width, 3), -1)
    palette: dict[str, tuple[int, ...]] = {}
    colour, x, top = "", 0, 0
    token = re.compile(r"#(\d+);2;(\d+);(\d+);(\d+)|#(\d+)|!(\d+)([?-~])|([?-~])|(\$)|(-)")
    end = 0
    for match in token.finditer(found[3]):
        assert match.start() == end, found[3][end : end + 20]
        end = match.end()
        if match[1]:
            palette[match[1]] = tuple(round(int(value) * 2.55) for value in match.group(2, 3, 4))
        elif match[5]:
            colour = match[5]
        elif match[9]:
            x = 0
        elif match[10]:
            x, top = 0, top + 6
        else:
            count, letter = (int(match[6]), match[7]) if match[6] else (1, match[8])
            for row in range(6):
                if (ord(letter) - 63) >> row & 1:
                    pixels[top + row, x : x + count] = palette[colour]
            x += count
            assert x <= width
    assert end == len(found[3])
    assert (pixels[height:] == -1).all() and (pixels[:height] >= 0).all()
    return pixels[:height]


def colour_of(code: list[int]) -> tuple[int, ...]:
    """Of `2;r;g;b`, or of an index into xterm's 256 colours."""
    if code[0] == 2:
        return tuple(code[1:])
    index = code[1]
    if index >= 232:
        return (8 + 10 * (index - 232),) * 3
    cube = [(index - 16) // 36, (index - 16) // 6 % 6, (index - 16) % 6]
    return tuple(value and 55 + 40 * value for value in cube)


def block_pixels(text: str) -> np.ndarray:
    """From the SGR codes; -1 where the terminal's background is left."""
    assert text.endswith("\n")
    rows: list[list[tuple[int, ...]]] = []
    for line in text.removesuffix("\n").split("\n"):
        upper, lower = [], []
        high = low = (-1, -1, -1)
        assert line.endswith("\x1b[0m"), "colours leak into the next line"
        for code, block in re.findall(r"\x1b\[([\d;]*)m|(▀)", line):
            words = [int(word) for word in code.split(";")] if code else [0]
            if block:
                upper.append(high)
                lower.append(low)
            elif words[0] == 38:
                high = colour_of(words[1:])
            else:
                low = colour_of(words[1:]) if words[0] == 48 else (-1, -1, -1)
        assert re.sub(r"\x1b\[[\d;]*m", "", line) == "▀" * len(upper)
        rows += [upper, lower]
    return np.asarray(rows)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("decode", [kitty_pixels, iterm2_pixels])
def test_png_of_the_protocol_is_the_picture(size: tuple[int, int], decode: object) -> None:
    image = picture(*size)
    protocol = KITTY if decode is kitty_pixels else ITERM2
    pixels, keys = decode(render(image, protocol, 80))
    assert np.array_equal(pixels, np.asarray(image))
    cells = keys["c"] if protocol == KITTY else keys["width"]
    assert int(cells) == max(1, -(-size[0] // 10))


def test_large_picture_goes_to_kitty_in_chunks() -> None:
    noise = np.random.default_rng(1).integers(0, 256, (96, 96, 3), dtype=np.uint8)
    text = render(Image.fromarray(noise), KITTY, 80)
    assert text.count("\x1b_G") > 5
    assert np.array_equal(kitty_pixels(text)[0], noise)


@pytest.mark.parametrize("size", SIZES)
def test_sixels_are_the_picture(size: tuple[int, int]) -> None:
    """Within what 256 colours of a gradient lose; 3.2 of 255 in the mean seen."""
    image = picture(*size)
    pixels = sixel_pixels(render(image, SIXEL, 80))
    difference = np.abs(pixels - np.asarray(image, dtype=int))
    assert difference.mean() < 6
    # flat regions lose the rounding to percent alone
    flat = difference[: size[1] // 2, : size[0] // 2]
    assert flat.size == 0 or flat.mean() < 2


def test_few_colours_are_exact_in_sixels() -> None:
    """Black, white and pure colours are whole percents."""
    pixels = np.zeros((13, 9, 3), np.uint8)
    pixels[::2, 1::3], pixels[5:, 4:], pixels[:, 8] = (255, 255, 255), (255, 0, 0), (0, 0, 255)
    assert np.array_equal(sixel_pixels(render(Image.fromarray(pixels), SIXEL, 9)), pixels)


@pytest.mark.parametrize("size", [(40, 8), (40, 7), (3, 20), (1, 1)])
def test_half_blocks_are_the_pixels(size: tuple[int, int]) -> None:
    image = picture(*size)
    pixels = block_pixels(render(image, BLOCKS_24_BIT, 80))
    assert np.array_equal(pixels[: size[1]], np.asarray(image))
    assert len(pixels) == size[1] + size[1] % 2 and (pixels[size[1] :] == -1).all()


def test_256_colours_are_the_nearest() -> None:
    palette = np.array([colour_of([5, index]) for index in range(16, 256)])
    values = np.random.default_rng(2).integers(0, 256, (6, 50, 3), dtype=np.uint8)
    values[0, :, 1:] = values[0, :, :1]  # greys
    drawn = block_pixels(render(Image.fromarray(values), BLOCKS_256, 50))
    distances = ((values[:, :, None].astype(int) - palette) ** 2).sum(-1)
    assert np.array_equal(((values.astype(int) - drawn) ** 2).sum(-1), distances.min(-1))


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("columns", [80, 24, 1])
def test_wide_picture_is_made_to_fit(protocol: str, columns: int) -> None:
    image = picture(1600, 800)
    text = render(image, protocol, columns)
    if protocol in (KITTY, ITERM2):
        pixels, keys = (kitty_pixels if protocol == KITTY else iterm2_pixels)(text)
        assert int(keys["c"] if protocol == KITTY else keys["width"]) == columns
    else:
        pixels = (sixel_pixels if protocol == SIXEL else block_pixels)(text)
        if protocol != SIXEL:
            assert pixels.shape[1] == columns
    height, width = pixels.shape[:2]
    # half blocks come in pairs of rows
    assert abs(height - width / 2) <= 1.5
    # red above left, as before; a single cell is the mean of all
    assert width == 1 or np.abs(pixels[0, 0] - (255, 0, 0)).max() < 60


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "1"])
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_every_mode_is_drawn(protocol: str, mode: str) -> None:
    image = picture(8, 8).convert(mode)
    assert render(image, protocol, 8) == render(image.convert("RGB"), protocol, 8)


@pytest.mark.parametrize(
    ("environ", "protocol"),
    [
        ({"TERM": "xterm-kitty", "KITTY_WINDOW_ID": "1"}, KITTY),
        ({"TERM": "xterm-256color", "KITTY_WINDOW_ID": "3"}, KITTY),
        ({"TERM": "xterm-kitty"}, KITTY),
        ({"TERM": "xterm-ghostty"}, KITTY),
        ({"TERM": "xterm-256color", "TERM_PROGRAM": "ghostty"}, KITTY),
        ({"TERM": "xterm-256color", "TERM_PROGRAM": "iTerm.app", "COLORTERM": "24bit"}, ITERM2),
        ({"TERM": "xterm-256color", "TERM_PROGRAM": "WezTerm"}, ITERM2),
        ({"TERM": "xterm-256color", "LC_TERMINAL": "iTerm2"}, ITERM2),
        ({"TERM": "foot"}, SIXEL),
        ({"TERM": "foot-extra"}, SIXEL),
        ({"TERM": "mlterm-256color"}, SIXEL),
        ({"TERM": "contour"}, SIXEL),
        ({"TERM": "xterm-256color", "COLORTERM": "truecolor"}, BLOCKS_24_BIT),
        ({"TERM": "xterm-direct"}, BLOCKS_24_BIT),
        ({"TERM": "xterm", "TERM_PROGRAM": "vscode", "KITTY_WINDOW_ID": "1"}, BLOCKS_24_BIT),
        ({"WT_SESSION": "x"}, BLOCKS_24_BIT),
        ({"TERM": "xterm-256color"}, BLOCKS_256),
        ({"TERM": "xterm-256color", "TERM_PROGRAM": "Apple_Terminal"}, BLOCKS_256),
        ({"TERM": "linux"}, BLOCKS_256),
        # inside a multiplexer, which passes no picture on
        ({"TERM": "tmux-256color", "TERM_PROGRAM": "tmux", "KITTY_WINDOW_ID": "1"}, BLOCKS_256),
        ({"TERM": "screen", "KITTY_WINDOW_ID": "1", "COLORTERM": "truecolor"}, BLOCKS_24_BIT),
        ({"TERM": "xterm-kitty", "TMUX": "/tmp/tmux,1,0"}, BLOCKS_24_BIT),
        ({"TERM": "dumb", "KITTY_WINDOW_ID": "1"}, None),
        ({"TERM": "xterm-kitty", "NO_COLOR": "1"}, None),
        ({"TERM": "xterm-256color", "NO_COLOR": "yes"}, None),
        ({"TERM": "xterm-kitty", "NO_COLOR": ""}, KITTY),
    ],
)
def test_protocol_is_read_from_the_environment(
    environ: dict[str, str], protocol: str | None
) -> None:
    assert detect_protocol(environ, is_terminal=True) == protocol
    assert detect_protocol(environ, is_terminal=False) is None


class Terminal(io.TextIOWrapper):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("encoding", "environ", "is_drawn"),
    [
        ("utf-8", {"TERM": "xterm-256color"}, True),
        ("ascii", {"TERM": "xterm-kitty"}, True),
        ("ascii", {"TERM": "xterm-256color"}, False),
        ("latin-1", {"TERM": "xterm-256color", "COLORTERM": "truecolor"}, False),
        ("utf-8", {"TERM": "dumb"}, False),
    ],
)
def test_show_draws_what_the_stream_can_hold(
    monkeypatch: pytest.MonkeyPatch, encoding: str, environ: dict[str, str], is_drawn: bool
) -> None:
    terminal = Terminal(io.BytesIO(), encoding)
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setattr(terminal_image.os, "environ", environ | {"COLUMNS": "80", "LINES": "24"})
    assert terminal_image.show(picture(128, 128)) is is_drawn
    written = terminal.buffer.getvalue()
    assert bool(written) is is_drawn
    if is_drawn and encoding == "utf-8":
        # 21 of 24 lines, two pixels each
        assert block_pixels(written.decode()).shape[:2] == (42, 42)


def test_nothing_is_shown_where_stdout_is_no_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TERM", "xterm-kitty")
    assert not terminal_image.show(picture(8, 8))
    assert capsys.readouterr().out == ""
