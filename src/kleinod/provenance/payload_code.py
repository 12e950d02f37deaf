"""The watermark's payload as bits that survive: a checksum, then a convolutional code.

48 bits + CRC-16 (CCITT) + 8 zeros that close the trellis, coded at rate 1/4 with constraint length
9 (generators 463, 535, 733, 745 octal, free distance 24) and decoded softly by Viterbi. Knows
nothing about pictures.
"""

from functools import cache

import numpy as np
from numpy.typing import NDArray

PAYLOAD_BITS = 48
CHECK_BITS = 16
MEMORY = 8
GENERATORS = (0o463, 0o535, 0o733, 0o745)
CODE_BITS = (PAYLOAD_BITS + CHECK_BITS + MEMORY) * len(GENERATORS)

Floats = NDArray[np.float32]


def encode(payload: int) -> Floats:
    """(288,) of -1 (a zero) and +1 (a one)."""
    assert 0 <= payload < 1 << PAYLOAD_BITS
    word = (payload << CHECK_BITS | _checksum(payload)) << MEMORY
    length = PAYLOAD_BITS + CHECK_BITS + MEMORY
    state, rows = 0, []
    for position in reversed(range(length)):
        bit = word >> position & 1
        rows.append(_outputs()[state, bit])
        state = _next_state(state, bit)
    return np.concatenate(rows)


def decode(soft: Floats) -> int | None:
    """The payload of (288,) soft values, positive for a one; None if its checksum is wrong."""
    word = 0
    for bit in _viterbi(soft.reshape(-1, len(GENERATORS)))[:-MEMORY]:
        word = word << 1 | bit
    payload, check = word >> CHECK_BITS, word & (1 << CHECK_BITS) - 1
    return payload if _checksum(payload) == check else None


def _viterbi(soft: Floats) -> list[int]:
    """The likeliest input bits of (steps, 4) soft outputs, from state 0 to state 0."""
    states = np.arange(1 << MEMORY)
    # the two states that lead to a state, and the bit that was shifted in
    before = np.stack((states << 1, states << 1 | 1)) & (1 << MEMORY) - 1
    bits = states >> (MEMORY - 1)
    expected = _outputs()[before, bits]  # (2, states, 4)
    metric = np.full(len(states), -np.inf)
    metric[0] = 0
    choices = []
    for row in soft:
        candidates = metric[before] + expected @ row
        choices.append(candidates.argmax(axis=0))
        metric = candidates.max(axis=0)
    state, path = 0, []
    for choice in reversed(choices):
        path.append(state >> (MEMORY - 1))
        state = int(before[choice[state], state])
    return path[::-1]


def _next_state(state: int, bit: int) -> int:
    return (bit << MEMORY | state) >> 1


@cache
def _outputs() -> Floats:
    """(states, 2, 4): the outputs of a state and an input bit, as -1 and +1."""
    table = np.empty((1 << MEMORY, 2, len(GENERATORS)), np.float32)
    for state in range(1 << MEMORY):
        for bit in (0, 1):
            register = bit << MEMORY | state
            table[state, bit] = [2 * ((register & g).bit_count() % 2) - 1 for g in GENERATORS]
    return table


def _checksum(payload: int) -> int:
    """CRC-16/CCITT of the six bytes."""
    register = 0xFFFF
    for byte in payload.to_bytes(PAYLOAD_BITS // 8, "big"):
        register ^= byte << 8
        for _ in range(8):
            register = (register << 1 ^ (0x1021 if register & 0x8000 else 0)) & 0xFFFF
    return register
