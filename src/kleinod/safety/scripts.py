"""Prompts in other scripts than Latin, letter by letter, and the words of languages.toml.

`spelling` reads English and its neighbours: it drops the voicing marks of kana and the vowel
signs of Devanagari, and parts words at spaces, which Chinese and Japanese do not have.
Knows nothing of categories.
"""

import re
import tomllib
import unicodedata
from dataclasses import dataclass
from pathlib import Path

from kleinod.safety.spelling import plain

LANGUAGES_FILE = Path(__file__).parent / "languages.toml"
_KANA = "\u3041-\u3096\u30a1-\u30fa\uff66-\uff9d"
_VOICING = "\u3099\u309a\uff9e\uff9f"
# vowel signs, virama and digits; all but the nukta and the accents
_DEVANAGARI = "\u0900-\u093b\u093d-\u0950\u0955-\u096f"
_CJK = "\u3005-\u3007\u3040-\u30fa\u30fc-\u30ff\u3400-\u4dbf\u4e00-\u9fff"
_KEPT = re.compile(rf"[{_KANA}{_VOICING}\u30fc{_DEVANAGARI}]+")
_VOICED_KANA = re.compile(rf"(?<![{_KANA}])[{_VOICING}]+|(?<=[{_VOICING}])[{_VOICING}]+")
_KEPT_DEVANAGARI = re.compile(rf"[{_DEVANAGARI}]+")
_NUKTA = re.compile("[\u093c\u0951-\u0954]")
# alef maksura, teh marbuta and Persian letters as Arabic ones, no tatweel; chandrabindu
_LETTERS = str.maketrans("ىةیکۀ\u0901", "يهيكه\u0902", "ـ")
_CLAUSE_ENDS = re.compile(r"[,;:!?\n\u3001\u3002\u060c\u061b\u061f\u0964]+")
_SIGNS = re.compile(rf"[^\w{_DEVANAGARI}\n]+|_+")
_CJK_GAPS = re.compile(rf"(?<=[{_CJK}]) (?=[{_CJK}])")
_WORD_SIGN = rf"[\w{_DEVANAGARI}]"


@dataclass(frozen=True)
class Language:
    """How words of a language stand in a text.

    template: a regular expression around a phrase's. is_latin: whether `plain` writes it in
    ASCII.
    """

    template: str = r"\b(?:{})\b"
    is_latin: bool = False

    def pattern(self, phrase: str) -> str:
        """The regular expression of a phrase as it stands in a text of this language."""
        return self.template.format(phrase.replace(r"\w", _WORD_SIGN))


# those of rules.toml
LATIN = Language(is_latin=True)
LANGUAGES = {
    "ru": Language(),
    "tr": Language(is_latin=True),
    "zh": Language("(?:{})"),
    # a word in katakana does not begin within another
    "ja": Language(r"(?:(?<![\u30a1-\u30fa\u30fc])|(?![\u30a1-\u30fa]))(?:{})"),
    # the article and the particles that are written in one with a word, and its owner
    "ar": Language(r"(?<!\w)[\u0648\u0641\u0628\u0643\u0644]?(?:\u0627\u0644|\u0644)?(?:{})"
                   r"(?:\u0647\u0627|\u0647\u0645|\u0646\u0627)?(?!\w)"),
    "hi": Language(rf"(?<!{_WORD_SIGN})(?:{{}})(?!{_WORD_SIGN})"),
}  # fmt: skip


def fold(text: str) -> str:
    """Letters as `plain` has them; kana keep their voicing, Devanagari its vowel signs."""
    text = _NUKTA.sub("", _VOICED_KANA.sub("", text))
    parts, end = [], 0
    for kept in _KEPT.finditer(text):
        own = _NUKTA.sub("", unicodedata.normalize("NFKC", kept[0]))
        parts += [plain(text[end : kept.start()]), own]
        end = kept.end()
    return "".join((*parts, plain(text[end:]))).translate(_LETTERS)


def reading(text: str) -> str:
    """Words with single spaces, clauses in lines; nothing between Chinese or Japanese letters.

    Empty for a text that `plain` writes in ASCII.
    """
    if text.isascii():
        return ""
    folded = fold(text)
    if folded.isascii():
        return ""
    return _CJK_GAPS.sub("", _SIGNS.sub(" ", _CLAUSE_ENDS.sub("\n", folded)))


def without_devanagari(text: str) -> str:
    """A `Speller`'s reading without what it leaves of Devanagari, consonants of other words."""
    return _KEPT_DEVANAGARI.sub("", text)


def phrase_pattern(phrase: str) -> str:
    """A regular expression for a phrase in `reading`s; empty where `plain` writes it in ASCII."""
    folded = reading(phrase).strip()
    if not folded:
        return ""
    # no words to be parted where Chinese or Japanese begins or ends it
    start = "" if re.match(f"[{_CJK}]", folded) else rf"(?<!{_WORD_SIGN})"
    end = "" if re.search(f"[{_CJK}]$", folded) else rf"(?!{_WORD_SIGN})"
    return f"{start}{re.escape(folded)}{end}"


def language_groups() -> dict[str, dict[str, str]]:
    """The groups of phrases of each language of languages.toml, folded as texts are."""
    values = tomllib.loads(LANGUAGES_FILE.read_text(encoding="utf-8"))
    return {
        language: {name: fold(phrases) for name, phrases in groups.items()}
        for language, groups in values.items()
    }
