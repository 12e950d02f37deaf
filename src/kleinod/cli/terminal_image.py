"""A picture in the terminal: a graphics protocol where there is one, else Unicode half blocks.

    environment ── detect_protocol ── render ── one string for stdout

What a terminal can do is read from the environment alone: asking it with an escape code would
take from what the user types, and leaves rubbish on a screen that does not answer.
"""

import base64
import io
import math
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
from PIL import Image

KITTY, ITERM2, SIXEL = "kitty", "iterm2", "sixel"
BLOCKS_24_BIT, BLOCKS_256 = "half-blocks-24-bit", "half-blocks-256"
# an ordinary cell; only the ratio of 1 : 2 matters where the protocol counts in cells
_CELL_WIDTH, _CELL_HEIGHT = 10, 20
# lines that stay free for the report above and the prompt below
_FREE_LINES = 3
# base64 characters of one escape sequence; kitty's limit
_KITTY_CHUNK = 4096
_SIXEL_COLOURS, _SIXEL_ROWS = 256, 6
# xterm's 256 colours from 16 on: a cube of 6 levels, then 24 greys
_CUBE_LEVELS = (0, 95, 135, 175, 215, 255)
_GREYS = tuple(range(8, 248, 10))
_BY_PROGRAM = {
    "iterm.app": ITERM2,
    "wezterm": ITERM2,
    "mintty": ITERM2,
    "ghostty": KITTY,
    "vscode": BLOCKS_24_BIT,
    "apple_terminal": BLOCKS_256,
}
_BY_TERM = {
    "xterm-kitty": KITTY,
    "xterm-ghostty": KITTY,
    "wezterm": ITERM2,
    "foot": SIXEL,
    "mlterm": SIXEL,
    "contour": SIXEL,
    "yaft": SIXEL,
}
# variables that a program with 24-bit colours sets
_TRUE_COLOUR_VARIABLES = ("WT_SESSION", "KONSOLE_VERSION", "VTE_VERSION")


def show(image: Image.Image) -> bool:
    """Draw on stdout where it is a terminal that can; whether it was drawn."""
    protocol = detect_protocol(os.environ, is_terminal=sys.stdout.isatty())
    if protocol is None or not _can_encode(protocol, sys.stdout.encoding):
        return False
    size = shutil.get_terminal_size()
    height = max(1, size.lines - _FREE_LINES) * _CELL_HEIGHT
    columns = height * image.width // (image.height * _CELL_WIDTH)
    sys.stdout.write(render(image, protocol, max(1, min(columns, size.columns))))
    sys.stdout.flush()
    return True


def detect_protocol(environ: Mapping[str, str], is_terminal: bool) -> str | None:
    """What to draw by; None where nothing shall be drawn."""
    term = environ.get("TERM", "").lower()
    if not is_terminal or term == "dumb" or environ.get("NO_COLOR"):
        return None
    blocks = BLOCKS_24_BIT if _has_true_colour(environ, term) else BLOCKS_256
    # a multiplexer inherits the variables of the terminal around it and passes no pictures on
    if {"TMUX", "STY", "ZELLIJ"} & environ.keys() or term.startswith(("screen", "tmux")):
        return blocks
    program = environ.get("TERM_PROGRAM", "").lower()
    if program in _BY_PROGRAM:
        return _BY_PROGRAM[program]
    for name, protocol in _BY_TERM.items():
        if term == name or term.startswith(f"{name}-"):
            return protocol
    if environ.get("KITTY_WINDOW_ID"):
        return KITTY
    # what iTerm2 sets for the far end of ssh, too
    if environ.get("LC_TERMINAL") == "iTerm2":
        return ITERM2
    return blocks


def render(image: Image.Image, protocol: str, columns: int) -> str:
    """The characters that draw an image at most `columns` cells wide, with a newline at the end.

    It is made smaller to fit, never larger. Any Pillow mode; transparency is left out.
    """
    columns = max(1, columns)
    draw: dict[str, Callable[[Image.Image, int], str]] = {
        KITTY: _kitty,
        ITERM2: _iterm2,
        SIXEL: _sixel,
        BLOCKS_24_BIT: _half_blocks_24_bit,
        BLOCKS_256: _half_blocks_256,
    }
    return draw[protocol](image.convert("RGB"), columns)


def _can_encode(protocol: str, encoding: str) -> bool:
    """Whether the half block is among the letters of the stream; the protocols are ASCII."""
    try:
        "▀".encode(encoding)
    except (UnicodeEncodeError, LookupError):
        return protocol in (KITTY, ITERM2, SIXEL)
    return True


def _has_true_colour(environ: Mapping[str, str], term: str) -> bool:
    if environ.get("COLORTERM", "").lower() in ("truecolor", "24bit"):
        return True
    is_direct = term.endswith("-direct") or term.startswith(("xterm-kitty", "alacritty", "foot"))
    return is_direct or any(environ.get(name) for name in _TRUE_COLOUR_VARIABLES)


def _fitted(image: Image.Image, width: int) -> Image.Image:
    """At most so many pixels wide, the sides in proportion."""
    if image.width <= width:
        return image
    height = max(1, round(image.height * width / image.width))
    return image.resize((width, height), Image.Resampling.LANCZOS)


def _png(image: Image.Image, columns: int) -> tuple[bytes, int]:
    """The file, and how many cells it is wide."""
    fitted = _fitted(image, columns * _CELL_WIDTH)
    data = io.BytesIO()
    fitted.save(data, "PNG")
    return data.getvalue(), math.ceil(fitted.width / _CELL_WIDTH)


def _kitty(image: Image.Image, columns: int) -> str:
    """https://sw.kovidgoyal.net/kitty/graphics-protocol/: a PNG in chunks, answers off (q=2)."""
    data, cells = _png(image, columns)
    text = base64.b64encode(data).decode()
    chunks = [text[start : start + _KITTY_CHUNK] for start in range(0, len(text), _KITTY_CHUNK)]
    keys = [f"a=T,f=100,q=2,c={cells},", *["q=2,"] * (len(chunks) - 1)]
    parts = (
        f"\x1b_G{key}m={int(index < len(chunks) - 1)};{chunk}\x1b\\"
        for index, (key, chunk) in enumerate(zip(keys, chunks, strict=True))
    )
    return "".join(parts) + "\n"


def _iterm2(image: Image.Image, columns: int) -> str:
    """https://iterm2.com/documentation-images.html: a whole file in one sequence."""
    data, cells = _png(image, columns)
    keys = f"inline=1;size={len(data)};width={cells};preserveAspectRatio=1"
    return f"\x1b]1337;File={keys}:{base64.b64encode(data).decode()}\x07\n"


def _sixel(image: Image.Image, columns: int) -> str:
    """DEC's: a palette in percent, then bands of six rows, one line of them for each colour."""
    fitted = _fitted(image, columns * _CELL_WIDTH)
    indexed = fitted.quantize(_SIXEL_COLOURS, dither=Image.Dither.FLOYDSTEINBERG)
    rgb = np.asarray(indexed.getpalette(), dtype=float).reshape(-1, 3)
    percent = np.rint(rgb * 100 / 255).astype(int)
    codes = np.asarray(indexed)
    palette = (f"#{n};2;{r};{g};{b}" for n, (r, g, b) in enumerate(percent))
    bands = (_sixel_band(codes[top : top + 6]) for top in range(0, len(codes), _SIXEL_ROWS))
    # an aspect of 1 : 1, and the size that the picture will have
    start = f'\x1bPq"1;1;{fitted.width};{fitted.height}'
    return f"{start}{''.join(palette)}{'-'.join(bands)}\x1b\\\n"


def _sixel_band(codes: np.ndarray) -> str:
    """Of up to six rows of palette indices; `$` returns to the left for the next colour."""
    bits = (1 << np.arange(len(codes)))[:, None]
    lines = []
    for colour in np.unique(codes):
        masks = ((codes == colour) * bits).sum(axis=0)
        lines.append(f"#{colour}" + "".join(_sixel_runs(masks)))
    return "$".join(lines)


def _sixel_runs(masks: np.ndarray) -> Iterator[str]:
    """Runs of equal columns as `!count`; a column is the letter at 63 plus its mask of rows."""
    starts = np.flatnonzero(np.diff(masks, prepend=-1))
    for start, length in zip(starts, np.diff(starts, append=len(masks)), strict=True):
        letter = chr(63 + int(masks[start]))
        yield f"!{length}{letter}" if length > 3 else letter * int(length)


def _half_blocks_24_bit(image: Image.Image, columns: int) -> str:
    return _half_blocks(image, columns, lambda rgb: "2;{};{};{}".format(*rgb))


def _half_blocks_256(image: Image.Image, columns: int) -> str:
    return _half_blocks(image, columns, lambda rgb: f"5;{_nearest_of_256(rgb)}")


def _half_blocks(
    image: Image.Image, columns: int, code: Callable[[tuple[int, int, int]], str]
) -> str:
    """Two pixels in a cell: the upper in the letter's colour, the lower in the background's."""
    fitted = _fitted(image, columns)
    pixels = np.asarray(fitted)
    lines = []
    for top in range(0, fitted.height, 2):
        upper = pixels[top].tolist()
        # an odd last row has the terminal's own background below it
        lower = pixels[top + 1].tolist() if top + 1 < fitted.height else [None] * fitted.width
        cells = (
            f"\x1b[38;{code(high)}m" + ("\x1b[49m" if low is None else f"\x1b[48;{code(low)}m")
            for high, low in zip(upper, lower, strict=True)
        )
        lines.append("▀".join(cells) + "▀\x1b[0m\n")
    return "".join(lines)


def _nearest_of_256(rgb: tuple[int, int, int]) -> int:
    """The nearest of xterm's cube and greys; the first 16 colours are the user's own."""
    cube = [_nearest(_CUBE_LEVELS, value) for value in rgb]
    grey = _nearest(_GREYS, sum(rgb) / 3)
    in_cube = sum((_CUBE_LEVELS[n] - v) ** 2 for n, v in zip(cube, rgb, strict=True))
    in_greys = sum((_GREYS[grey] - v) ** 2 for v in rgb)
    return 232 + grey if in_greys < in_cube else 16 + 36 * cube[0] + 6 * cube[1] + cube[2]


def _nearest(levels: Sequence[int], value: float) -> int:
    """The index of the level nearest to a value."""
    return min(range(len(levels)), key=lambda index: abs(levels[index] - value))
