"""A shuffle that is computed, not held: which number stands at a place, from the place alone.

    keys = np.random.default_rng(7).integers(1 << 64, size=ROUNDS, dtype=np.uint64)
    permuted(np.arange(5), 10**11, keys)    # the first five of 10**11 numbers in an order of their own

A Feistel network permutes the numbers of so many bits, whatever its rounds compute (Luby & Rackoff 1988); a number that it
leads out of the range is led on until it falls inside, which keeps it a permutation (cycle walking, Black & Rogaway 2002,
section 3). Every place costs the same few dozen operations, and no memory but its own.
"""

import numpy as np

ROUNDS = 6


def permuted(places: np.ndarray, count: int, keys: np.ndarray) -> np.ndarray:
    """The numbers below ``count`` that stand at ``places``, in the order that ``keys`` (ROUNDS numbers of 64 bits) give."""
    half = np.uint64(((count - 1).bit_length() + 1) // 2)  # bits; the network's range is at most four times as large
    numbers = network(places.astype(np.uint64), half, keys)
    while len(outside := np.flatnonzero(numbers >= count)):
        numbers[outside] = network(numbers[outside], half, keys)
    return numbers.astype(np.int64)


def network(numbers, half, keys):
    mask = (np.uint64(1) << half) - np.uint64(1)
    left, right = numbers >> half, numbers & mask
    for key in keys:
        left, right = right, left ^ (mixed(right + key) & mask)
    return left << half | right


def mixed(bits):
    """64 bits of which each depends on all (splitmix64's last steps: Steele, Lea & Flood 2014, figure 16)."""
    bits = (bits ^ bits >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ bits >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    return bits ^ bits >> np.uint64(31)
