"""Prompts of one sign, as long as they may be: what reads them takes time in proportion."""

import itertools
import time
import unicodedata
from collections.abc import Callable

import pytest

from kleinod.errors import InputError
from kleinod.safety import Guard, Policy, budget, codes, scripts
from kleinod.safety import sentences as sentences_module
from kleinod.safety.sentences import Sentences
from kleinod.safety.spelling import plain
from kleinod.safety.words import DenyList, Words, shipped_rules

LENGTH = 32_768
# one of each class of signs, and what unfolds, folds, combines or is left out
SIGNS = (
    *(".", "…", ",", ";", "!", "?", ":", "'", '"', "`", "-", "–", "_", "*", "#", "@", "$", "|"),
    *("(", ")", "[", "{", "<", "«", "+", "=", "~", "/", "\\", "€", "·", "。", "、", "·"),
    *(" ", "\n", "\t", "\r", "\xa0", "\u3000", "\u2028", "\u0085", "\u200b", "\u202e", "\0"),
    *("a", "A", "1", "é", "ß", "ﬃ", "İ", "ſ", "²", "½", "Ⅷ", "①", "🄰", "🅰", "𝐚", "ａ"),
    *("\ufdfa", "\ufdfb", "\ufdf2", "\u3316", "\u33ff", "\u337f", "\ufb03", "\u1e69", "\u0344"),
    *("\u0301", "\u0301\u0323", "\u302e\u302a", "a\u0301\u0323", "\u0f71\u0f72", "\u1ab0\u1ab5"),
    *("狐", "가", "\u1100", "\u1161", "\u11a8", "ث", "א", "ก", "\u0e33", "अ", "🦊", "🇩🇪", "\ud800"),
)
# what a pattern that backtracks would meet: letters and signs in turn
PIECES = ("a", "aa", "é", "1", " ", ".", "*", "_", "'", "\n", "@", "(", "\u0301", "…")
PAIRS = tuple(a + b for a, b in itertools.permutations(PIECES, 2))
PHRASES = (
    "copyrighted movie ",
    "famous cartoon ",
    "put her face ",
    "aa bb cc. ",
    "a b c d. ",
    "n*de ",
)
# four times the length: 4 where time is linear, 16 where it is quadratic
MAX_RATIO = 8
# below this a ratio is the clock's, not the pattern's
SHORT_SECONDS = 0.02


def seconds(work: Callable[[str], object], text: str) -> float:
    """Processor time of this thread, the shorter of two runs."""
    found = []
    for _ in range(2):
        start = time.thread_time()
        work(text)
        found.append(time.thread_time() - start)
    return min(found)


def is_linear(work: Callable[[str], object], sign: str) -> bool:
    """Whether four times as much of a sign takes about four times as long."""
    long, short = ((sign * length)[:length] for length in (LENGTH, LENGTH // 4))
    whole = seconds(work, long)
    return whole < SHORT_SECONDS or whole < MAX_RATIO * seconds(work, short)


@pytest.fixture(scope="module")
def words() -> Words:
    return Words()


@pytest.fixture(scope="module")
def sentences() -> Sentences:
    return Sentences()


@pytest.mark.parametrize("sign", SIGNS, ids=ascii)
def test_words_of_one_sign_take_linear_time(words: Words, sign: str) -> None:
    assert is_linear(plain, sign)
    assert is_linear(lambda text: words.scores("prompt", text), sign)


# what the patterns of codes and of other scripts begin with, run on, or end at
CODE_PIECES = (
    *("%", "%4", "%41", "=41", "&", "&#", "&#1", "&#1;", "&amp", "\\", "\\u", "\\u0041", "\\x41"),
    *("\\101", "U+0041", "U+0041  ", "0x41", "0x41 ", "0x", "41", "41 ", "65,", "65 ", "01", "a-"),
    *("01000001", "01000001 ", "QUJD", "QUJD=", "QUJD\n", "A", "=", "\\N{", '"', '"a"', "'", "“"),
    *("|_|", "/\\", "()", "ɐ", "a b "),
)
SCRIPT_PIECES = (
    *("裸 ", "裸。", "が", "か\u3099", "\u3099", "\uff9e", "ｶﾞ", "\u3099\u094d", "\uff9e\u094d"),
    *("नं ", "\u094d", "\u093c", "\u093c\u094d", "क\u093c", "क\u0951\u094d", "aअ", "अ。"),
    *("عارٍ ", "ـ", "\u064b\u0651", "гол ", "й", "и\u0306", "ー", "・", "裸・ "),
)


@pytest.mark.parametrize("sign", (*SIGNS, *CODE_PIECES), ids=ascii)
def test_codes_are_read_in_linear_time(sign: str) -> None:
    assert is_linear(codes.decoded, sign)
    assert is_linear(codes.decoded, f"{sign}~")


@pytest.mark.parametrize("sign", (*SIGNS, *SCRIPT_PIECES), ids=ascii)
def test_scripts_are_read_in_linear_time(sign: str) -> None:
    assert is_linear(scripts.reading, sign)


@pytest.mark.parametrize("sign", SCRIPT_PIECES, ids=ascii)
def test_words_of_scripts_take_linear_time(words: Words, sign: str) -> None:
    assert is_linear(lambda text: words.scores("prompt", text), sign)


@pytest.mark.parametrize("prompt", ["a nu", "裸", "a", " ", ""], ids=ascii)
def test_split_prompts_take_linear_time(words: Words, prompt: str) -> None:
    def score(text: str) -> object:
        return words.split_scores([prompt] * (len(text) // 64))

    assert is_linear(score, "x")


@pytest.mark.slow
@pytest.mark.parametrize("signs", (*PAIRS, *PHRASES), ids=ascii)
def test_words_of_signs_in_turn_take_linear_time(words: Words, signs: str) -> None:
    assert is_linear(lambda text: words.scores("prompt", text), signs)


@pytest.mark.parametrize("sign", SIGNS, ids=ascii)
def test_clauses_of_one_sign_are_found_in_linear_time(sign: str) -> None:
    assert is_linear(lambda text: list(sentences_module._clauses(plain(text))), sign)


@pytest.mark.parametrize("signs", (*PAIRS, *PHRASES), ids=ascii)
def test_clauses_of_signs_in_turn_are_found_in_linear_time(signs: str) -> None:
    assert is_linear(lambda text: list(sentences_module._clauses(text)), signs)


@pytest.mark.slow
@pytest.mark.parametrize("sign", (*SIGNS, *PHRASES), ids=ascii)
def test_sentences_of_one_sign_take_linear_time(sentences: Sentences, sign: str) -> None:
    assert is_linear(lambda text: sentences.scores("prompt", text), sign)


@pytest.mark.parametrize("sign", [".", "a", "a ", "\ufdfa", "x y z "], ids=ascii)
def test_deny_list_takes_linear_time(sign: str) -> None:
    deny_list = DenyList(["acme", "x y z", "foo bar"])
    assert is_linear(lambda text: deny_list.scores("prompt", text), sign)


def test_letters_of_a_prompt_unfold_into_few() -> None:
    """No sign of Unicode makes a prompt longer than ten times."""
    signs = map(chr, range(0x110000))
    unfolded = {sign for sign in signs if len(unicodedata.normalize("NFKD", sign)) > 4}
    assert unfolded
    assert max(len(plain(sign)) for sign in unfolded) <= 10


def test_no_state_is_kept_of_long_words(words: Words) -> None:
    words.scores("prompt", "a" * LENGTH)
    assert words._speller._slip_of.cache_info().currsize <= 4096
    before = words._speller._slip_of.cache_info().currsize
    words.scores("prompt", "qwertz" * 5000)
    assert words._speller._slip_of.cache_info().currsize == before


def test_prompt_over_its_budget_is_the_senders_mistake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget, "PROMPT_SECONDS", 0.0)
    guard = Guard.load(Policy(has_own_filters=False))
    with pytest.raises(InputError, match=r"^prompt: judging it took over 0 s .*; shorten it$"):
        guard.check_prompt("a fox on a hill, an owl in a tree. " * 50)


@pytest.mark.parametrize(
    ("text", "clauses"),
    [
        ("a red fox. it is big!", ["a red fox", "it is big!"]),
        ("one two three... four five six", ["one two three", "four five six"]),
        ("a b c\n\nd e f", ["a b c", "d e f"]),
        ("no signs here at all", ["no signs here at all"]),
        ("...a b c ... d e f", ["...a b c ", "d e f"]),
    ],
)
def test_clauses_end_at_signs_before_spaces(text: str, clauses: list[str]) -> None:
    assert [text[a:b] for a, b in sentences_module._clauses(text)] == clauses


def test_shipped_rules_are_compiled_once() -> None:
    assert shipped_rules() is shipped_rules()
