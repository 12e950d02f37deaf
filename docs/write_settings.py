"""Writes the table of settings into docs/service.md; `make docs` runs it, a test compares."""

from pathlib import Path

from kleinod.server.settings import table

PAGE = Path(__file__).parent / "service.md"
BEGIN, END = "<!-- settings -->\n", "<!-- end of settings -->\n"

if __name__ == "__main__":
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    PAGE.write_text(f"{before}{BEGIN}{table()}{END}{after}", encoding="utf-8")
