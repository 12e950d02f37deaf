"""The report as a picture: seconds by stage and peak memory, one bar a row, drawn with Pillow."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from PIL import Image, ImageDraw, ImageFont

WIDTH, MARGIN, LABELS, NOTES = 1600, 60, 400, 170
ROW, BAR, TITLE, AXIS = 64, 38, 44, 70
INK, FAINT, PAPER = "#1c1c28", "#d9d9e3", "#ffffff"
COLOURS = {
    "encode": "#8d6bb8",
    "text": "#e0a33b",
    "denoise": "#2f6fbb",
    "decode": "#4aa37a",
    "memory": "#77798c",
}
_FLOOR = "the machine's floor"


@dataclass(frozen=True)
class Bar:
    """A row: its segments in order, by the name that gives the colour."""

    label: str
    segments: Mapping[str, float]
    note: str

    @property
    def length(self) -> float:
        """All segments."""
        return sum(self.segments.values())


def drawn(report: Mapping[str, Any]) -> Image.Image:
    """The chart of a report from comparison.summarised."""
    times, peaks = list(_time_bars(report)), list(_memory_bars(report))
    height = 2 * MARGIN + TITLE + 60 + sum(_panel_height(bars) for bars in (times, peaks))
    image = Image.new("RGB", (WIDTH, height), PAPER)
    draw = ImageDraw.Draw(image)
    draw.text((MARGIN, MARGIN), _title(report), INK, _font(34))
    top = MARGIN + TITLE + 10
    _legend(draw, top, [stage for stage in COLOURS if any(stage in b.segments for b in times)])
    top = _panel(draw, top + 50, times, "seconds a picture")
    if peaks:
        _panel(draw, top, peaks, "peak memory, GB")
    return image


def _title(report: Mapping[str, Any]) -> str:
    facts = report["engines"]["kleinod"]["facts"]
    side, steps = facts["size"], facts["num_steps"]
    return f"{facts['model']}, {side} x {side}, {steps} steps, {facts['dtype']}, {facts['device']}"


def _time_bars(report: Mapping[str, Any]) -> Iterable[Bar]:
    references = report["engines"]["kleinod"]["facts"]["num_references"]
    names = ("encode", "text", "denoise", "decode") if references else ("text", "denoise", "decode")
    for engine, figures in report["engines"].items():
        calls = {engine: figures["seconds"]}
        if "known_prompt_seconds" in figures:
            calls[f"{engine}, prompt known"] = figures["known_prompt_seconds"]
        for label, seconds in calls.items():
            parts = {name: seconds[name]["median"] for name in names}
            yield Bar(label, parts, f"{seconds['total']['median']:.3g} s")
    floors = report["floor_seconds"]
    yield Bar(_FLOOR, {name: floors[name] for name in names}, f"{floors['total']:.3g} s")


def _memory_bars(report: Mapping[str, Any]) -> Iterable[Bar]:
    for engine, figures in report["engines"].items():
        peaks = figures["memory"]
        peak = peaks["device_bytes"] or peaks["resident_bytes"]
        if peak:
            yield Bar(engine, {"memory": peak / 1e9}, f"{peak / 1e9:.3g} GB")


def _panel_height(bars: list[Bar]) -> int:
    return len(bars) * ROW + AXIS + 40 if bars else 0


def _panel(draw: ImageDraw.ImageDraw, top: int, bars: list[Bar], unit: str) -> int:
    """Draw the bars over an axis from 0; the y below it."""
    left, right = MARGIN + LABELS, WIDTH - MARGIN - NOTES
    step = _tick(max(bar.length for bar in bars))
    end = step * math.ceil(max(bar.length for bar in bars) / step)
    bottom = top + len(bars) * ROW
    for number in range(round(end / step) + 1):
        x = left + (right - left) * number * step / end
        draw.line((x, top, x, bottom), FAINT, 2)
        draw.text((x, bottom + 8), f"{number * step:g}", INK, _font(22), anchor="ma")
    draw.text((left, bottom + 40), unit, INK, _font(22), anchor="la")
    for index, bar in enumerate(bars):
        y = top + index * ROW + (ROW - BAR) // 2
        draw.text((left - 16, y + BAR // 2), bar.label, INK, _font(26), anchor="rm")
        x = float(left)
        for name, value in bar.segments.items():
            width = (right - left) * value / end
            draw.rectangle((x, y, x + width, y + BAR), COLOURS[name])
            x += width
        draw.text(
            (x + 12, y + BAR // 2),
            bar.note,
            INK,
            _font(26),
            "lm",
            stroke_width=6,
            stroke_fill=PAPER,
        )
    return bottom + AXIS + 40


def _legend(draw: ImageDraw.ImageDraw, top: int, names: list[str]) -> None:
    x = MARGIN + LABELS
    for name in names:
        draw.rectangle((x, top, x + 24, top + 24), COLOURS[name])
        draw.text((x + 34, top + 12), name, INK, _font(24), anchor="lm")
        x += 200


def _tick(longest: float) -> float:
    """A step of 1, 2 or 5 times a power of ten that gives five to ten ticks."""
    rough = max(longest, 1e-9) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    return next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * 0.999)


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)
