"""Kinds of files by their first bytes: those that are read, and names for those that are not.

Each format that is read has a limit of pixels, so that no file takes more than about a gigabyte
to decode: `MAX_PIXELS` times the bytes per pixel that its decoder was measured to take at once
(in brackets below). Knows nothing of what is in the pixels.
"""

import importlib
from importlib.util import find_spec

# With a decoder of their own: EPS and the like would start another program.
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP", "PPM", "AVIF")
# Formats of plugins that may be installed beside Pillow: names, modules, and what to install.
PLUGINS = {
    "HEIF": ("a HEIC file", ("pillow_heif", "pi_heif"), "pillow-heif"),
    "JXL": ("a JPEG XL file", ("pillow_jxl",), "pillow-jxl-plugin"),
}
_SMALL, _MEDIUM = 3 * 2**24, 2**26  # 50 and 67 megapixels
_LARGE = 2**30 // 4 // 3  # 89 megapixels, as Pillow has it
MAX_PIXELS = {
    "PNG": _LARGE,  # 4
    "GIF": _LARGE,  # 4
    "TIFF": _LARGE,  # 4
    "BMP": _LARGE,  # 4
    "PPM": _LARGE,  # 4
    "WEBP": _SMALL,  # 16
    "AVIF": _MEDIUM,  # 11.5
    "HEIF": _MEDIUM,
    "JXL": _SMALL,
    "JPEG": 2**29,  # decoded at an eighth of its sides: a sixteenth of a byte
}
# A JPEG of several scans (progressive ones): the decoder holds all coefficients, up to 8 bytes a
# pixel, and goes over the whole picture for each scan.
MAX_SCANS_PIXELS, MAX_PIXELS_TIMES_SCANS = 2**27, 2**32

_MODULES = {
    "PNG": "PngImagePlugin",
    "JPEG": "JpegImagePlugin",
    "WEBP": "WebPImagePlugin",
    "GIF": "GifImagePlugin",
    "TIFF": "TiffImagePlugin",
    "BMP": "BmpImagePlugin",
    "PPM": "PpmImagePlugin",
    "AVIF": "AvifImagePlugin",
}
_STARTS = (
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"\xff\xd8\xff", "JPEG"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
    *((start, "TIFF") for start in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")),
    (b"BM", "BMP"),
    *((b"P%d" % kind, "PPM") for kind in range(1, 7)),
    (b"PF", "PPM"),
    (b"Pf", "PPM"),
    (b"\xff\x0a", "JXL"),
    (b"\0\0\0\x0cJXL \r\n\x87\n", "JXL"),
)
_HEIF_BRANDS = (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1", b"mif2")
_OTHERS = (
    (b"%PDF", "a PDF document"),
    (b"%!PS", "a PostScript file"),
    (b"8BPS", "a Photoshop file"),
    (b"\0\0\x01\0", "an icon file"),
    (b"\0\0\0\x0cjP  ", "a JPEG 2000 file"),
    (b"\xff\x4f\xff\x51", "a JPEG 2000 file"),
    (b"v/1\x01", "an OpenEXR file"),
    (b"\x1aE\xdf\xa3", "a video"),
    (b"PK\x03\x04", "a zip archive"),
    (b"gimp xcf", "a GIMP file"),
    (b"version https://git-lfs", "a Git LFS pointer, not the picture itself"),
)


def format_of(data: bytes) -> str | None:
    """Pillow's name of the format that the first bytes announce; None: none that is read."""
    for start, name in _STARTS:
        if data.startswith(start):
            return name
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    brands = _brands(data)
    if b"avif" in brands or b"avis" in brands:
        return "AVIF"
    return "HEIF" if any(brand in _HEIF_BRANDS for brand in brands) else None


def kind_of(data: bytes) -> str | None:
    """What a file is that is not read, in words; None where its first bytes tell nothing."""
    if not data:
        return "an empty file"
    for start, words in _OTHERS:
        if data.startswith(start):
            return words
    if data[:4] == b"RIFF" or _brands(data):
        return "a video or sound file"
    text = data[:512].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if b"<svg" in text and text.startswith((b"<?xml", b"<svg", b"<!--", b"<!doctype svg")):
        return "an SVG drawing"
    if text.startswith((b"<!doctype html", b"<html")):
        return "a web page"
    return None


def _brands(data: bytes) -> list[bytes]:
    """What an ISO base media file says that it is (ISO 14496-12, ftyp)."""
    if data[4:8] != b"ftyp":
        return []
    end = min(int.from_bytes(data[:4], "big"), 256)
    return [data[8:12], *(data[at : at + 4] for at in range(16, end, 4))]


def has_decoder(format_name: str) -> bool:
    """Import the part of Pillow, or the plugin, that reads a format; False if it is missing."""
    if format_name in _MODULES:
        importlib.import_module(f"PIL.{_MODULES[format_name]}")
        return True
    for module in PLUGINS[format_name][1]:
        if find_spec(module) is not None:
            plugin = importlib.import_module(module)
            if format_name == "HEIF":
                # thumbnails and depth maps are of no use here, and further decoders to attack
                plugin.register_heif_opener(thumbnails=False, depth_images=False)
            return True
    return False
