"""What the documents show works: code runs, commands parse, links lead somewhere."""

import json
import os
import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from PIL import Image
from typer.main import get_command

from kleinod import catalog
from kleinod.cli import app
from kleinod.server import settings

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def _blocks(language: str) -> list[object]:
    return [
        pytest.param(text, id=f"{page.relative_to(ROOT)}-{number}")
        for page in PAGES
        for number, (name, text) in enumerate(BLOCK.findall(page.read_text(encoding="utf-8")))
        if name == language
    ]


@pytest.fixture
def tiny_everywhere(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Any model name means the tiny model; a current folder with two pictures in it."""
    monkeypatch.setattr(catalog, "find", lambda name: tiny_model)
    monkeypatch.chdir(tmp_path)
    for name in ("fox.png", "owl.png"):
        Image.new("RGB", (96, 80), "brown").save(name)


@pytest.mark.parametrize("code", _blocks("python"))
@pytest.mark.usefixtures("tiny_everywhere")
def test_python_block_runs(code: str) -> None:
    exec(compile(code, "block", "exec"), {"__name__": "__main__"})


def _parse(program: str, name: str, *arguments: str) -> None:
    group = get_command(app)
    assert Path(program).name == "kleinod" and name in group.commands, name
    command = group.commands[name]
    command.make_context(name, list(arguments), parent=typer.Context(group))


@pytest.mark.parametrize("commands", _blocks("console"))
def test_console_block_parses(commands: str) -> None:
    for line in commands.splitlines():
        _parse(*shlex.split(line.removeprefix("$ ")))


DEPLOY = (ROOT / "docs" / "deploy.md").read_text(encoding="utf-8")


def test_deployed_settings_are_valid(tmp_path: Path) -> None:
    (text,) = (text for language, text in BLOCK.findall(DEPLOY) if language == "toml")
    file = tmp_path / "kleinod.toml"
    file.write_text(text, encoding="utf-8")
    assert settings.load(file).public_url == "https://images.example.com/paint"


def test_deployed_commands_parse_and_variables_exist() -> None:
    blocks = dict(BLOCK.findall(DEPLOY))
    (unit,) = re.findall(r"^ExecStart=(.*)$", blocks["ini"], re.MULTILINE)
    (container,) = re.findall(r"^CMD (.*)$", blocks["dockerfile"], re.MULTILINE)
    for words in (shlex.split(unit), json.loads(container)):
        _parse(*words)
    variables = set(re.findall(r"\b(KLEINOD_\w+)=", DEPLOY))
    assert variables and {name.removeprefix("KLEINOD_") for name in variables} <= set(
        settings.OTHER_VARIABLES
    ) | {name.upper() for name in settings.Settings.model_fields}


def test_file_table_says_what_the_catalogue_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # of a model that was fetched the files count
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    page = (ROOT / "docs" / "choose-a-file.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([\w-]+)` \| [^|]+ \| (\S+) GB \| (\S+) GB \| (\S+) GB", page, re.M)
    with pytest.raises(SystemExit):
        get_command(app).main(["models", "--json"])
    models = {model["name"]: model for model in json.loads(capsys.readouterr().out)}
    assert len(rows) == 5
    for name, *stated in rows:
        memory = models[name]["memory_bytes"]
        sizes = models[name]["bytes"], memory["none"], memory["model"]
        assert stated == [f"{size / 1e9:.1f}" for size in sizes], name


@pytest.mark.slow
def test_prompts_page_shows_the_edits_it_promises(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    page = (ROOT / "docs" / "prompts.md").read_text(encoding="utf-8")
    (code,) = (text for language, text in BLOCK.findall(page) if language == "python")
    exec(compile(code, "block", "exec"), {"__name__": "__main__"})
    corners = {}
    for name in ("fox", "yellow", "both"):
        with Image.open(f"{name}.png") as image:
            corners[name] = image.convert("RGB").getpixel((3, 3))
    # the background of the fox is blue, that of its edit yellow
    red, green, blue = corners["fox"]
    assert blue > red
    red, green, blue = corners["yellow"]
    assert min(red, green) > blue + 60


def test_make_commands_in_the_documents_exist() -> None:
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M))
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        named = re.findall(r"^    make (\w+)|`make (\w+)`", text, re.MULTILINE)
        assert {first or second for first, second in named} <= targets, page


def test_links_lead_to_files() -> None:
    for page in PAGES:
        for link in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
            assert link.startswith("https://") or (page.parent / link).exists(), f"{page}: {link}"


def _anchors(page: Path) -> set[str]:
    """The fragments that a code host gives a page's headings."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    plain = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings)
    return {heading.replace(" ", "-") for heading in plain}


def test_links_to_headings_lead_to_headings() -> None:
    for page in PAGES:
        links = re.findall(r"\]\(([^)#:]*)#([^)]+)\)", page.read_text(encoding="utf-8"))
        for file, anchor in links:
            assert anchor in _anchors(page.parent / file if file else page), f"{page}: #{anchor}"


def test_each_measurement_has_its_head_and_a_line_in_the_index() -> None:
    folder = ROOT / "docs" / "log"
    index = (folder / "README.md").read_text(encoding="utf-8")
    for page in folder.glob("2*.md"):
        text = page.read_text(encoding="utf-8")
        title, date, head = re.split(r"\n\n", text, maxsplit=3)[:3]
        assert page.name.startswith(f"{date}-"), page
        assert f"| {date} | [{title.removeprefix('# ')}]({page.name}) |" in index, page
        labels = re.findall(r"^- \*\*(\w+):\*\* \S", head, re.MULTILINE)
        assert labels == ["Question", "Result", "Decision", "Machine", "Command"], page


def test_each_trap_names_a_test_that_exists() -> None:
    traps = (ROOT / "docs" / "traps.md").read_text(encoding="utf-8").split("\n- ")[1:]
    for trap in traps:
        found = re.search(r"`(tests/\w+\.py)::(\w+)`", trap)
        assert found, trap
        assert f"def {found[2]}(" in (ROOT / found[1]).read_text(encoding="utf-8"), trap


def test_command_line_page_is_up_to_date() -> None:
    write_cli = runpy.run_path(str(ROOT / "docs" / "write_cli.py"))
    page = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    assert page == write_cli["cli_reference"](), "run `make docs`"


@pytest.mark.slow
@pytest.mark.usefixtures("tiny_everywhere")
@pytest.mark.parametrize(
    ("script", "arguments"),
    [
        ("paint.py", ["a fox on a blue background", "out.png"]),
        ("edit.py", ["the first beside the second", "fox.png", "owl.png", "out.png"]),
    ],
)
def test_example_writes_its_picture(tiny_model: Path, script: str, arguments: list[str]) -> None:
    command = [sys.executable, str(ROOT / "examples" / script), *arguments]
    command += ["--model", str(tiny_model)]
    output = subprocess.run(command, check=True, capture_output=True, text=True, env=os.environ)
    assert "seed" in output.stdout
    with Image.open("out.png") as picture:
        assert picture.size == ((96, 80) if script == "edit.py" else (96, 96))


MAX_LETTERS = 100
# generated from the help, and pages that are not wrapped and reworded yet
NOT_WRAPPED = {"cli.md", "python.md", "safety.md", "watermark.md"}
WRAPPED = [page for page in sorted((ROOT / "docs").rglob("*.md")) if page.name not in NOT_WRAPPED]
# Words that had meanings of their own here; the glossary has the field's.
DIALECT = re.compile(
    r"\b(told|turned|mend(s|ed|ing)?|products?|residency|stripes|suspects?|likeness|chords?)\b",
    re.IGNORECASE,
)
# what they replaced stands there, or is quoted from that day
HISTORICAL = {"glossary.md", "0005-dependencies.md"}


def _long_lines(text: str) -> list[str]:
    """Lines of prose that are too long: no tables, no code, no line that is one long word."""
    prose = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    return [
        line
        for line in prose.split("\n")
        if len(line) > MAX_LETTERS
        and not line.startswith(("|", "    "))
        and " " in line.strip().removeprefix("- ")
    ]


def _dialect(text: str) -> list[str]:
    """Words of the list in prose: no code, no names of files, no settings."""
    prose = re.sub(r"^```.*?^```$|<!-- settings.*?of settings -->", "", text, flags=re.M | re.S)
    prose = re.sub(r"`[^`]*`|\[[\w/]+\.[ch]\]\([^)]*\)|\]\([^)]*\)", "", prose)
    return [match[0] for match in DIALECT.finditer(prose)]


@pytest.mark.parametrize("page", WRAPPED, ids=lambda page: page.name)
def test_lines_end_at_a_hundred_letters(page: Path) -> None:
    assert _long_lines(page.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "page",
    [page for page in WRAPPED if page.name not in HISTORICAL and page.parent.name != "log"],
    ids=lambda page: page.name,
)
def test_pages_use_the_words_of_the_field(page: Path) -> None:
    assert _dialect(page.read_text(encoding="utf-8")) == [], "docs/glossary.md has the words"


def test_help_and_settings_use_the_words_of_the_field() -> None:
    help_text = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    fields = settings.Settings.model_fields.values()
    texts = [help_text.replace("```", ""), *(field.description or "" for field in fields)]
    assert [word for text in texts for word in _dialect(text)] == []


@pytest.mark.parametrize(
    ("text", "num_long", "words"),
    [
        ("word " * 21, 1, []),
        ("| " + "word " * 30, 0, []),
        ("```sh\n" + "word " * 30 + "\n```", 0, []),
        ("https://host.example/" + "a" * 100, 0, []),
        ("It was told that products are mended.", 0, ["told", "products", "mended"]),
        ("`residency` and [x](suspects.md)", 0, []),
    ],
)
def test_style_checks_see_what_they_look_for(text: str, num_long: int, words: list[str]) -> None:
    assert len(_long_lines(text)) == num_long
    assert _dialect(text) == words
