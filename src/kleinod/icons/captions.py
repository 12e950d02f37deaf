"""English for captions: articles, plurals and number words. Knows nothing of pictures."""

UNCOUNTED = {"popcorn", "broccoli", "bread", "cheese", "fire", "french fries", "cherries", "grapes"}
SOUNDS_OPEN = {"hourglass"}
SOUNDS_CLOSED = {"ufo", "unicorn"}
NUMBERS = {2: "two", 3: "three", 4: "four"}
_PLURALS = {
    "mouse": "mice",
    "wolf": "wolves",
    "snowman": "snowmen",
    "tropical fish": "tropical fish",
    "cup of coffee": "cups of coffee",
}


def with_article(words: str) -> str:
    """'an owl', 'a fox', 'an hourglass', but 'popcorn' for what is not counted."""
    first = words.split()[0]
    if words in UNCOUNTED:
        return words
    opens = first in SOUNDS_OPEN or (first[0] in "aeiou" and first not in SOUNDS_CLOSED)
    return f"{'an' if opens else 'a'} {words}"


def plural(words: str) -> str:
    """'foxes', 'butterflies', 'mice', 'cups of coffee'."""
    if words in _PLURALS:
        return _PLURALS[words]
    if words.endswith(("s", "x", "ch", "sh")):
        return words + "es"
    if words.endswith("y") and words[-2] not in "aeiou":
        return words[:-1] + "ies"
    return words + "s"


def counted(words: str, number: int) -> str:
    """'three foxes'; one is 'a fox'."""
    return with_article(words) if number == 1 else f"{NUMBERS[number]} {plural(words)}"
