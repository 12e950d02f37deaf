"""URLs, origins and hosts as strangers send them: read here, where none of them can raise.

`urllib.parse` raises ValueError for an unclosed bracket or a port that is no number, and drops
line breaks silently; everything that comes from outside goes through these functions.
"""

import re
from urllib.parse import SplitResult, urljoin, urlsplit

# what stands in brackets must be an address, without a scope
_IPV6 = re.compile(r"(?:^|@)\[[0-9a-fA-F:.]+\](?::[0-9]*)?$")
_DEFAULT_PORTS = {"http": 80, "https": 443}


def split_url(text: str) -> SplitResult | None:
    """The parts of an absolute URL with a host and, if any, a valid port; None for other text."""
    if not text.isascii() or not text.isprintable() or set(text) & set(' \\<>"'):
        return None
    try:
        parts = urlsplit(text)
        is_whole = bool(parts.scheme and parts.hostname) and parts.port != 0
    except ValueError:
        return None
    if set(parts.netloc) & set("[]") and not _IPV6.search(parts.netloc):
        return None
    return parts if is_whole else None


def join_url(base: str, reference: str) -> str | None:
    """Where a redirect leads; None where that is no URL."""
    try:
        return urljoin(base, reference)
    except ValueError:
        return None


def host_name(host: str) -> str | None:
    """The name in a Host header, in lower case, without port and brackets; None if it is none."""
    parts = split_url(f"http://{host}")
    if parts is None or parts.netloc != host or "@" in host:
        return None
    return parts.hostname


def normal_origin(text: str) -> str | None:
    """An origin as browsers send it: scheme://host[:port] in lower case; None if it is none."""
    parts = split_url(text)
    if parts is None or "@" in parts.netloc or parts.path or parts.query or parts.fragment:
        return None
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    is_default = parts.port in (None, _DEFAULT_PORTS.get(parts.scheme))
    return f"{parts.scheme}://{host}" + ("" if is_default else f":{parts.port}")
