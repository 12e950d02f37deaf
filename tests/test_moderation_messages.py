"""What a block says, and whom brands and characters stop."""

import json
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner, Result

import kleinod
from kleinod import catalog
from kleinod.cli import app
from kleinod.errors import InputError, ModeratedError
from kleinod.provenance import container
from kleinod.safety import Guard, Policy, Screening, remedies
from kleinod.safety.verdicts import (
    BRANDS,
    DENIED,
    GORE,
    HATE,
    MINORS,
    PROMPT,
    SEXUAL,
    Verdict,
    threshold,
)
from kleinod.server.job_queue import outcomes
from kleinod.server.job_queue.executor import configured_session
from kleinod.server.settings import Settings

BRANDED = ("a Lego castle", "an iPhone on a desk", "a Ferrari at sunset", "a coca cola can")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty configuration folder, which is the current one."""
    monkeypatch.setenv("KLEINOD_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def _verdict(category: str, score: float, threshold: float = 0.5) -> Verdict:
    return Verdict(PROMPT, "words", "1", category, score, threshold)


def _generate(*arguments: str) -> Result:
    options = ["--c2pa", "off", "--seed", "7", "-o", "out.png"]
    return CliRunner().invoke(app, ["generate", *arguments, *options])


@pytest.mark.parametrize(
    ("verdicts", "command"),
    [
        ([_verdict(BRANDS, 0.65)], "--safety-tolerance 4 or --safety off change this"),
        ([_verdict(GORE, 0.55)], "--safety-tolerance 3 or --safety off change this"),
        ([_verdict(SEXUAL, 0.96)], "--safety off changes this"),
        ([_verdict(HATE, 0.9)], "--safety off changes this"),
        (
            [_verdict(GORE, 0.55), _verdict(BRANDS, 0.75)],
            "--safety-tolerance 5 or --safety off change this",
        ),
        ([_verdict(GORE, 0.55), _verdict(HATE, 0.75)], "--safety off changes this"),
        ([_verdict(DENIED, 1.0)], "deny_list in safety.toml or --safety off change this"),
        ([_verdict(SEXUAL, 0.7), _verdict(MINORS, 0.9)], ""),
    ],
)
def test_the_settings_that_help_are_named(verdicts: list[Verdict], command: str) -> None:
    assert remedies.remedy(verdicts, remedies.COMMAND) == command


@pytest.mark.parametrize(("category", "score"), [(BRANDS, 0.65), (GORE, 0.5), (SEXUAL, 0.79)])
def test_the_named_tolerance_lets_it_pass(category: str, score: float) -> None:
    tolerance = _verdict(category, score).passing_tolerance
    assert tolerance is not None
    limit = threshold
    assert score < limit(PROMPT, category, tolerance)
    assert score >= limit(PROMPT, category, tolerance - 1)


def test_the_command_names_category_and_options(home: Path) -> None:
    (home / "safety.toml").write_text('brands = "block"\nreport_address = "a@example.org"\n')
    result = _generate("a Lego castle", "--model", "no/such/model")
    assert result.exit_code == 3
    assert result.stderr == (
        "moderated: the prompt was blocked: a protected brand or character (filter words, 0.65 of "
        "0.50); --safety-tolerance 4 or --safety off change this; report a mistake to "
        "a@example.org\n"
    )
    passed = _generate("a Lego castle", "--model", "no/such/model", "--safety-tolerance", "4")
    assert passed.exit_code == 2 and "no/such/model" in passed.stderr


def test_python_names_its_own_arguments(home: Path) -> None:
    (home / "safety.toml").write_text('brands = "block"\n')
    pipe = kleinod.load("mini", device="cpu")
    with pytest.raises(ModeratedError) as caught:
        pipe.generate("a Lego castle")
    assert str(caught.value).endswith('; safety_tolerance=4 or safety="off" change this')


@pytest.mark.parametrize("prompt", BRANDED)
def test_a_local_users_brands_are_noted(tiny_model: Path, home: Path, prompt: str) -> None:
    result = _generate(prompt, "--model", str(tiny_model))
    assert result.exit_code == 0, result.stderr
    with Image.open(home / "out.png") as picture:
        receipt = container.receipt_in(picture)
    assert receipt is not None
    noted = [one for one in receipt["safety"]["verdicts"] if one.get("is_noted")]
    assert noted and {one["category"] for one in noted} == {"brands"}
    others = [one for one in receipt["safety"]["verdicts"] if one not in noted]
    assert all("is_noted" not in one and one["score"] < one["threshold"] for one in others)


@pytest.mark.parametrize("prompt", BRANDED)
def test_the_server_blocks_brands_unless_it_is_told_otherwise(home: Path, prompt: str) -> None:
    def screening() -> Screening:
        return Screening(configured_session(Settings(c2pa="off")).guard)

    with pytest.raises(ModeratedError, match="brand"):
        screening().check_prompt(prompt)
    (home / "safety.toml").write_text('brands = "note"\n')
    noting = screening()
    noting.check_prompt(prompt)
    assert any(verdict.is_noted for verdict in noting.verdicts)


def test_a_licence_that_demands_filters_blocks_brands(
    tiny_model: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (home / "safety.toml").write_text('brands = "note"\n')
    stated = json.loads((tiny_model / "kleinod.json").read_text())
    own = catalog.describe(tiny_model, tiny_model)
    licensed = type(own)(**{**vars(own), "license": catalog.NON_COMMERCIAL})
    monkeypatch.setattr(catalog, "describe", lambda name, path, **_: licensed)
    assert stated.get("license") != catalog.NON_COMMERCIAL
    result = _generate("a Lego castle", "--model", str(tiny_model))
    assert result.exit_code == 3 and "a protected brand or character" in result.stderr
    assert not (home / "out.png").exists()
    assert _generate("a fox", "--model", str(tiny_model)).exit_code == 0


def test_other_categories_are_never_noted() -> None:
    screening = Screening(Guard(Policy(brands="note")))
    for prompt in ("a nude woman", "a severed head on the floor"):
        with pytest.raises(ModeratedError):
            screening.check_prompt(prompt)


@pytest.mark.parametrize("value", ['"maybe"', "true", "1", '""'])
def test_a_wrong_setting_is_one_line(home: Path, value: str) -> None:
    (home / "safety.toml").write_text(f"brands = {value}\n")
    with pytest.raises(InputError, match="brands is"):
        Policy.configured()


def test_openais_words_name_its_setting() -> None:
    assert "moderation" in outcomes.openai_hint(("brands",))
    assert "moderation" in outcomes.openai_hint(("gore", "sexual"))
    for categories in ((), ("hate",), ("brands", "minors"), ("denied",)):
        assert outcomes.openai_hint(categories) == ""
