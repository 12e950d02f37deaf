"""Which combinations are kept for the evaluation and never composed for training.

One in nineteen by a rule on numbers, so that no list has to be stored: of (two objects, relation),
(object, number), (edit, object, detail) and (kind of joining, first, second). Single objects:
`scenes.held_out`. Every object is left in every role of every task, only with other partners.
"""

from kleinod.icons.layouts import PAIRS

ONE_IN = 19
EDITS = ("background", "style", "replace", "mirror", "add", "remove", "size", "move", "recolour")
JOININGS = ("beside", "background", "style")
# the same picture said from the other object's side
_CONVERSES = {"to the right of": "to the left of", "below": "above"}
_FACTORS = (7, 5, 3, 11)


def _kept(*numbers: int) -> bool:
    return sum(f * n for f, n in zip(_FACTORS, numbers, strict=False)) % ONE_IN == 0


def pair_is_held_out(first: int, second: int, relation: str) -> bool:
    """Two objects by concept number and how the first stands to the second (a key of PAIRS).

    'a below b' and 'b above a' are one picture and share their fate.
    """
    if relation in _CONVERSES:
        first, second, relation = second, first, _CONVERSES[relation]
    return _kept(first, second, list(PAIRS).index(relation))


def count_is_held_out(concept: int, number: int) -> bool:
    """Several of one object: 'three apples'."""
    return _kept(concept, number, 1)


def edit_is_held_out(kind: str, concept: int, detail: int) -> bool:
    """An edit of EDITS that is done to (or, for add and remove, with) an object.

    `detail` is the number of: the new background, style or colour in its table; the new object
    (replace); the object that stands there too (add, remove); the scene's background (mirror,
    size); the corner where it ends (move).
    """
    return _kept(concept, detail, EDITS.index(kind) + 1)


def joining_is_held_out(kind: str, first: int, second: int) -> bool:
    """Two references by their objects, joined as one of JOININGS."""
    return _kept(first, second, JOININGS.index(kind) + 2)
