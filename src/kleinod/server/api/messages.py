"""Messages for who calls over HTTP, of errors that were worded for the command line and Python.

The modules below the server name flags (`--c2pa off`) and Python's fields (`guidance_scale`) in
what helps. A caller can set neither: alternatives that need a flag are left out, fields get the
names that both APIs give them. The server's log keeps the message as it was raised.
"""

import re

from kleinod.display import printable

MAX_CHARACTERS = 2000
_FLAG = re.compile(r"(?<![\w-])--[a-z][\w-]*")
_FIELDS = {
    "num_inference_steps": "steps",
    "guidance_scale": "guidance",
    "num_images": "n",
    "format_name": "output_format",
}
_FIELD = re.compile(rf"\b(?:{'|'.join(_FIELDS)})\b")
# "write a .png or .jpg": over HTTP a format is asked for
_SUFFIXES = re.compile(r"write a (\.\w+(?: or \.\w+)*)")
_JPEG = re.compile(r"\bjpg\b")


def client_message(text: str) -> str:
    """The message in a caller's words, on one line."""
    clauses = " ".join(text.split()).split("; ")
    kept = [clauses[0], *filter(None, map(_without_flags, clauses[1:]))]
    kept[0] = _without_flags(kept[0]) or "this server's settings do not allow it"
    message = _FIELD.sub(lambda found: _FIELDS[found[0]], "; ".join(kept))
    return printable(_SUFFIXES.sub(_as_formats, message), limit=MAX_CHARACTERS)


def _without_flags(clause: str) -> str:
    """Those alternatives of a clause that need no flag."""
    if not _FLAG.search(clause):
        return clause
    alternatives = re.split(r",? or ", clause)
    return " or ".join(one for one in alternatives if not _FLAG.search(one))


def _as_formats(found: re.Match[str]) -> str:
    return "ask for output_format " + _JPEG.sub("jpeg", found[1].replace(".", ""))
