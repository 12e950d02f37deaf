"""For the site: links to files of the repository that are no pages become plain text.

There is no public home page that they could lead to. On a code host they work as they are.
"""

import re
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parent
_LINK = re.compile(r"(?<!!)\[([^\[\]]*)\]\(([^)\s#]+)(#[^)\s]*)?\)")


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:  # noqa: ANN401 - MkDocs' objects
    """MkDocs calls this with each page's text."""
    folder = (DOCS / page.file.src_uri).parent

    def without_dead_link(link: re.Match[str]) -> str:
        is_page = ":" in link[2] or _is_page(folder / link[2])
        return link[0] if is_page else link[1]

    return _LINK.sub(without_dead_link, markdown)


def _is_page(target: Path) -> bool:
    """Whether the site has the file."""
    return target.is_file() and target.resolve().is_relative_to(DOCS) and target.suffix != ".py"
