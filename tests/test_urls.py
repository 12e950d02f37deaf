"""URLs, hosts and origins as strangers send them: none of them raises."""

import asyncio

import pytest

from kleinod.errors import InputError
from kleinod.server.untrusted import fetching, urls

BROKEN = (
    *("http://[", "http://[::1", "https://]", "http://[::1]]/", "http://a:b/", "http://a:99999/"),
    *(
        "http://[v1.x]/",
        "http://[fe80::1%25e]/",
        "//[",
        "[",
        "]",
        "http://\u2100.com/",
        "http://a:-1",
    ),
    *("", "null", "a", "http:", "http://", "https:///x", "\0", "http://a\nb/", "http://a b/"),
    *(
        "http://a\x1b/",
        "http://\udcff/",
        "http://ａ/",
        "http://a:0/",
        "http://a\\b/",
        "javascript:x",
    ),
)


@pytest.mark.parametrize("text", BROKEN, ids=ascii)
def test_text_that_is_no_url_is_none(text: str) -> None:
    assert urls.split_url(text) is None
    assert urls.normal_origin(text) is None
    with pytest.raises(InputError, match=r"^input_image: "):
        fetching.check_url(text, "input_image")
    with pytest.raises(InputError):
        asyncio.run(fetching.fetch(text, "input_image", limits=fetching.FetchLimits(1000)))


@pytest.mark.parametrize("reference", ["http://[", "//[::1", "http://a]/", "//[x]"])
def test_redirect_to_no_url_leads_nowhere(reference: str) -> None:
    found = urls.join_url("http://example.com/a", reference)
    assert found is None or urls.split_url(found) is None


@pytest.mark.parametrize(
    ("host", "name"),
    [
        *(("localhost", "localhost"), ("LocalHost:80", "localhost"), ("127.0.0.1:1", "127.0.0.1")),
        *(("[::1]:8686", "::1"), ("[::1]", "::1"), ("example.com.", "example.com.")),
        *(("", None), ("[::1", None), ("a:b", None), ("a/b", None), ("u@localhost", None)),
        *(("localhost?x", None), ("localhost#x", None), ("local host", None), ("\xff", None)),
        *((":80", None), ("localhost:99999", None), ("localhost\\x", None)),
    ],
)
def test_names_of_hosts(host: str, name: str | None) -> None:
    assert urls.host_name(host) == name


@pytest.mark.parametrize(
    ("text", "origin"),
    [
        *(("https://A.example", "https://a.example"), ("http://a:80", "http://a")),
        *(("https://a:443", "https://a"), ("https://a:8443", "https://a:8443")),
        *(
            ("http://[::1]:5", "http://[::1]:5"),
            ("chrome-extension://abc", "chrome-extension://abc"),
        ),
        *(("https://a/", None), ("https://a?x", None), ("https://u:p@a", None), ("*", None)),
    ],
)
def test_origins_are_written_as_browsers_send_them(text: str, origin: str | None) -> None:
    assert urls.normal_origin(text) == origin
