"""Prompts as they are meant: disguises undone before any rule looks at them.

Unicode's look-alikes, invisible letters, accents, leetspeak, spaced letters, stretched letters,
masked letters and single slips become plain words. Knows nothing of categories.
"""

import re
import unicodedata
from collections.abc import Iterable, Iterator
from functools import lru_cache
from itertools import pairwise

from kleinod.safety.budget import Budget

# Cyrillic, Greek, Armenian and Latin letters that look like a Latin one, after casefold
_LOOK_ALIKES = {
    pair[0]: pair[1]
    for pair in (
        "аa бb вb еe зz іi јj кk ӏl мm нh оo рp ԛq ѕs сc тt уy ԝw хx ԁd ɑa αa βb γy εe ηn ιi κk νv "
        "οo ρp ςs τt υu χx ωw ɡg ɩi ոn սu օo ıi łl øo đd ħh ŧt"
    ).split()
}
# squared and circled letters that NFKC leaves as they are
_BADGES = {
    chr(first + index): chr(ord("a") + index)
    for first in (0x1F130, 0x1F150, 0x1F170, 0x1F1E6)
    for index in range(26)
}
_SMALL_CAPITALS = dict(zip("ᴀʙᴄᴅᴇꜰɢʜɪᴊᴋʟᴍɴᴏᴘꞯʀꜱᴛᴜᴠᴡʏᴢ", "abcdefghijklmnopqrstuvwyz", strict=True))
_LETTERS = str.maketrans(
    {**_LOOK_ALIKES, **_SMALL_CAPITALS, **_BADGES, "æ": "ae", "œ": "oe", "’": "'", "`": "'"}
)
# Arabic phrases in one sign, which NFKD writes out in 18 and 8 letters: no disguise of any word
_PHRASES = str.maketrans("\ufdfa\ufdfb", "  ")
_LEET = str.maketrans("013456789@$!|+€£¢()", "oieasgtbgasiltelccd")
# letters drawn of several signs, the longer ones first
_SHAPES = (
    ("|\\/|", "m"),
    *(("/\\/\\", "m"), ("\\/\\/", "w"), ("|_|", "u"), ("|\\|", "n"), ("|-|", "h")),
    *(("/\\", "a"), ("\\/", "v"), ("|<", "k"), ("|)", "d"), ("|3", "b"), ("()", "o")),
)
_LEET_SIGNS = "@$!|+€£¢("
# a word, or a letter between signs that stand for letters
_TOKEN = re.compile(r"[^\W_]+(?:[*#@$!|+€£¢(_]+[^\W_]+)*[$!|+)]*|[@$!|(][^\W_]+")
_SPACED = re.compile(r"(?<![^\W_])[^\W_](?:[\s.\-_*/,|~·•]{1,3}[^\W_]){2,}(?![^\W_])")
_POSSESSIVE = re.compile(r"'s?(?![^\W_])")
_STRETCHED = re.compile(r"(.)\1{2,}")
_MASK = re.compile(r"[*#_]+")
# a slip is looked for in words of this length; two slips in longer ones
_MIN_SLIP, _MIN_TWO_SLIPS = 5, 10


def plain(text: str) -> str:
    """Lower-case letters without accents, look-alikes and invisible characters; signs stay.

    Halves of surrogate pairs, which no encoding of text holds, become question marks.
    """
    text = text.encode("utf-8", "replace").decode("utf-8")
    # marks go first: Python sorts a run of combining marks in the square of its length
    decomposed = unicodedata.normalize("NFKD", _without_marks(text).translate(_PHRASES)).casefold()
    return unicodedata.normalize("NFKC", _without_marks(decomposed).translate(_LETTERS))


def _without_marks(text: str) -> str:
    """A text without combining marks and invisible characters."""
    if text.isascii():
        return text
    removed = {ord(c): None for c in set(text) if _is_mark(c)}
    return text.translate(removed) if removed else text


def _is_mark(character: str) -> bool:
    is_combining = unicodedata.combining(character) != 0
    return is_combining or unicodedata.category(character) in ("Mn", "Me", "Cf")


class Speller:
    """Reads disguised words: `known` are words of the language, `watched` those to find.

    `slipped` are those that a slip is looked for, too.
    """

    def __init__(
        self, known: Iterable[str], watched: Iterable[str], *, slipped: Iterable[str]
    ) -> None:
        self._watched = frozenset(watched)
        self._known = frozenset(known) - self._watched
        self._by_first: dict[str, list[str]] = {}
        for word in sorted(slipped):
            if len(word) >= _MIN_SLIP:
                self._by_first.setdefault(word[0], []).append(word)
        # longer tokens are no watched word, nor two known ones, however they are written
        self._longest = max(map(len, self._known | self._watched), default=0)
        # a server sees many prompts
        self._slip_of = lru_cache(maxsize=4096)(self._slip)

    def readings(self, text: str, budget: Budget | None = None) -> tuple[str, ...]:
        """Words with single spaces: as they stand, and as they may be meant.

        Raises InputError where the budget is spent.
        """
        budget = budget or Budget()
        text = _POSSESSIVE.sub("", plain(text))
        words = [" ".join(_words(token)) for token in _TOKEN.findall(text)]
        joined = _SPACED.sub(lambda found: self._joined(found[0]), _with_letters(text))
        tokens = _TOKEN.findall(joined)
        # a prompt repeats its words, and may be made of one ligature that stands for four
        meanings = {token: self._meant(token, budget).split() for token in set(tokens)}
        meant = list(self._rejoined([word for token in tokens for word in meanings[token]]))
        return tuple(dict.fromkeys((" ".join(words), " ".join(meant))))

    def _joined(self, spaced: str) -> str:
        """Letters that stand apart as one word; a lone `a` before or after it stays one."""
        letters = re.sub(r"[\W_]", "", spaced)
        bare = letters.translate(_LEET)
        for start, end in ((0, 0), (1, 0), (0, 1), (1, 1)):
            inner = bare[start : len(bare) - end]
            if inner in self._watched:
                return f"{letters[:start]} {inner} {letters[len(letters) - end :] if end else ''}"
        return letters

    def _meant(self, token: str, budget: Budget) -> str:
        """The word behind a token, or its words."""
        budget.check()
        if token in self._known or token in self._watched or token.isdigit():
            return token
        for guess in _guesses(token):
            if guess in self._watched or guess in self._known:
                return guess
        words = " ".join(_words(token))
        if len(token) > 2 * self._longest:
            return words
        return self._masked(token) or self._slip_of(words.replace(" ", "")) or words

    def _masked(self, token: str) -> str | None:
        """n*de: a sign stands for one letter or more, at least half are there."""
        parts = _MASK.split(token)
        if len(parts) < 2 or 2 * sum(map(len, parts)) < len(token):
            return None
        pattern = re.compile(r"\w{1,3}".join(map(re.escape, parts)))
        return next((word for word in sorted(self._watched) if pattern.fullmatch(word)), None)

    def _slip(self, token: str) -> str | None:
        """The watched word that a token is one slip away from, or two words written as one."""
        if token in self._known or len(token) < _MIN_SLIP - 1 or any(c.isdigit() for c in token):
            return None
        for word in self._by_first.get(token[0], ()):
            allowed = 2 if len(word) >= _MIN_TWO_SLIPS else 1
            if abs(len(word) - len(token)) > allowed or len(set(word) ^ set(token)) > 2 * allowed:
                continue  # cheap, and true of nearly all
            if _distance(word, token) <= allowed:
                return word
        for cut in range(_MIN_SLIP - 1, len(token) - 3):
            first, second = token[:cut], token[cut:]
            has_long = any(len(half) >= _MIN_SLIP for half in {first, second} & self._watched)
            if has_long and {first, second} <= self._known | self._watched:
                return f"{first} {second}"
        return None

    def _rejoined(self, words: list[str]) -> Iterator[str]:
        """Words again, with `na ked` made one where a half alone is no word."""
        index = 0
        while index < len(words):
            pair = "".join(words[index : index + 2])
            halves = set(words[index : index + 2])
            if len(halves) == 2 and pair in self._watched and not halves <= self._known:
                yield pair
                index += 2
            else:
                yield words[index]
                index += 1


def _with_letters(text: str) -> str:
    """A text with letters in place of those that are drawn of several signs."""
    for signs, letter in _SHAPES:
        text = text.replace(signs, letter)
    return text


def _words(token: str) -> list[str]:
    return re.findall(r"[^\W_]+", token)


def _guesses(token: str) -> Iterator[str]:
    """A token without stretched letters, without leetspeak."""
    for one in (token, token.translate(_LEET), token.replace("1", "l").translate(_LEET)):
        bare = "".join(_words(one))
        yield bare
        yield _STRETCHED.sub(r"\1\1", bare)
        yield _STRETCHED.sub(r"\1", bare)
        yield re.sub(r"(.)\1", r"\1", bare) if _STRETCHED.search(bare) else bare


def _near() -> frozenset[frozenset[str]]:
    """Letters that are taken for each other: a slip of the finger, or of the ear."""
    rows = ("qwertyuiop", "asdfghjkl", "zxcvbnm")
    pairs = [pair for row in rows for pair in pairwise(row)]
    pairs += [pair for a, b in ((0, 1), (1, 2)) for pair in zip(rows[a], rows[b], strict=False)]
    pairs += [(a, b) for a in "aeiouy" for b in "aeiouy"] + [("i", "l"), ("s", "z"), ("c", "k")]
    return frozenset(frozenset(pair) for pair in pairs)


_NEAR = _near()


def _distance(one: str, other: str) -> int:
    """Insertions, deletions, likely changes and swaps of neighbours (string alignment)."""
    before: list[int] = []
    last = list(range(len(other) + 1))
    for i, a in enumerate(one, start=1):
        row = [i]
        for j, b in enumerate(other, start=1):
            best = min(last[j] + 1, row[-1] + 1, last[j - 1] + _change(a, b))
            if i > 1 and j > 1 and a == other[j - 2] and one[i - 2] == b:
                best = min(best, before[j - 2] + 1)
            row.append(best)
        before, last = last, row
    return last[-1]


def _change(a: str, b: str) -> int:
    return 0 if a == b else 1 if frozenset((a, b)) in _NEAR else 2
