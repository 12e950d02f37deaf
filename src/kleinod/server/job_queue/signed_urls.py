"""Signatures: URLs that are valid for a while, webhook bodies that prove their sender."""

import hashlib
import hmac
import re

# a picture's name in the storage; nothing else is ever given out
_PICTURE = re.compile(r"results/[0-9a-f]{32}/[0-9]{1,3}(-[0-9]{1,6})?\.(png|jpeg|webp)")


def is_picture(path: str) -> bool:
    """Whether a path is one of a finished picture."""
    return _PICTURE.fullmatch(path) is not None


def url_signature(secret: bytes, path: str, expires: str) -> str:
    """Of a path and, as the URL writes it, the second since 1970 until which it may be fetched."""
    return hmac.new(secret, f"{path}\n{expires}".encode(), hashlib.sha256).hexdigest()


def is_valid_url(
    secret: bytes, path: str, expires: str, *, signature: str, now_seconds: float
) -> bool:
    """Whether the signature is ours and its time is not over."""
    if not re.fullmatch(r"[1-9][0-9]{0,11}", expires, re.ASCII) or not is_picture(path):
        return False
    expected = url_signature(secret, path, expires).encode()
    given = signature.encode(errors="surrogatepass")
    return hmac.compare_digest(expected, given) and now_seconds < int(expires)


def webhook_signature(secret: str, body: bytes) -> str:
    """What the header X-BFL-Signature says of a body."""
    return "sha256=" + hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
