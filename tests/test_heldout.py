"""What is kept for the evaluation is about one in nineteen, of every kind and every object."""

from itertools import product

import pytest

from kleinod.icons import held_out_rules
from kleinod.icons.layouts import BACKGROUNDS, PAIRS

CONCEPTS = range(121)


@pytest.mark.parametrize("relation", PAIRS)
def test_one_pair_in_nineteen_is_kept(relation: str) -> None:
    kept = [
        pair
        for pair in product(CONCEPTS, CONCEPTS)
        if held_out_rules.pair_is_held_out(*pair, relation)
    ]
    assert len(kept) == pytest.approx(121**2 / 19, rel=0.05)
    assert {first for first, _ in kept} == set(CONCEPTS)


def test_converse_relations_are_one_picture() -> None:
    for first, second in product(range(20), range(20)):
        for relation, converse in (("above", "below"), ("to the left of", "to the right of")):
            kept = held_out_rules.pair_is_held_out(first, second, relation)
            assert kept == held_out_rules.pair_is_held_out(second, first, converse)


@pytest.mark.parametrize("kind", held_out_rules.EDITS)
def test_one_edit_in_nineteen_is_kept(kind: str) -> None:
    details = range(len(BACKGROUNDS))
    kept = sum(held_out_rules.edit_is_held_out(kind, c, d) for c, d in product(CONCEPTS, details))
    assert kept == pytest.approx(121 * 13 / 19, rel=0.05)


@pytest.mark.parametrize("kind", held_out_rules.JOININGS)
def test_one_joining_in_nineteen_is_kept(kind: str) -> None:
    kept = sum(
        held_out_rules.joining_is_held_out(kind, *pair) for pair in product(CONCEPTS, CONCEPTS)
    )
    assert kept == pytest.approx(121**2 / 19, rel=0.05)


def test_counts_are_kept_for_some_objects_only() -> None:
    kept = {
        (c, n) for c, n in product(CONCEPTS, (2, 3, 4)) if held_out_rules.count_is_held_out(c, n)
    }
    assert 15 <= len(kept) <= 23
    assert {number for _, number in kept} == {2, 3, 4}
