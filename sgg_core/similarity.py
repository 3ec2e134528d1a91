"""Texts that are almost the same, found without comparing every one with every other. Loads no torch."""

from __future__ import annotations

import math
import re
from array import array
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from zlib import crc32

THRESHOLD = 0.8
MIN_WORDS = 5  # shorter texts differ in a word that matters
# Bounds on the work for files that are no few-shot files: one sentence fifty thousand times, or whole books.
MAX_LOOKS = 1_000_000
MAX_COMPARED = 20_000_000
MAX_WORDS = 500_000

_WORD = re.compile(r"\w+")
_BUCKETS = 2**16


@dataclass(frozen=True, slots=True)
class Pair:
    """Text `later` is almost text `earlier`; `similarity` is the Jaccard index of their words, repetitions counted."""

    later: int
    earlier: int
    similarity: float


def near_duplicates(
    texts: Sequence[str], known: int = 0, max_looks: int = MAX_LOOKS, max_compared: int = MAX_COMPARED
) -> Iterator[Pair]:
    """Yield, for each text from index `known` on, the first of the earlier ones that is almost the same.

    With `known` > 0 the first so many texts are compared with the others and not among themselves. The join is exact:
    of two sets with a Jaccard index of at least t, each has one of the common words among its n - ceil(t n) + 1 first
    ones in any order of all words (prefix filter: Chaudhuri et al., ICDE 2006; Bayardo et al., WWW 2007). Rare words
    come first. It ends after `max_looks` looks at a candidate, or once the candidates that were compared had
    `max_compared` words together, and reads no more than `MAX_WORDS` words.
    """
    sets = _read(texts)
    frequency = array("L", bytes(_BUCKETS * array("L").itemsize))
    for words in sets:
        for word in words:
            frequency[word % _BUCKETS] += 1
    index: dict[int, array[int]] = defaultdict(lambda: array("L"))
    looks = compared = 0
    for number, words in enumerate(sets):
        if len(words) < MIN_WORDS:
            continue
        rarest = sorted(words, key=lambda word: (frequency[word % _BUCKETS], word))
        prefix = rarest[: len(words) - math.ceil(THRESHOLD * len(words)) + 1]
        if number >= known:
            candidates = {candidate for word in prefix for candidate in index.get(word, ())}
            looks += sum(len(index.get(word, ())) for word in prefix)
            fitting = [candidate for candidate in sorted(candidates) if _may_be_alike(words, sets[candidate])]
            pair = _first(number, words, sets, fitting)
            compared += sum(len(sets[candidate]) for candidate in fitting if pair is None or candidate <= pair.earlier)
            if pair is not None:
                yield pair
            if looks > max_looks or compared > max_compared:
                return
        if not known or number < known:
            for word in prefix:
                index[word].append(number)


def _read(texts: Sequence[str]) -> list[array[int]]:
    """Each text's words as distinct numbers, without case and punctuation; the second `the` is another one."""
    sets: list[array[int]] = []
    left = MAX_WORDS
    for text in texts:
        seen: Counter[str] = Counter()
        words = array("L")
        for found in _WORD.finditer(text.casefold()):
            word = found.group()
            seen[word] += 1
            words.append(crc32(f"{seen[word]} {word}".encode()))
            if len(words) > left:
                return sets
        left -= len(words)
        sets.append(array("L", sorted(set(words))))
    return sets


def _may_be_alike(words: Sequence[int], others: Sequence[int]) -> bool:
    return THRESHOLD * len(words) <= len(others) <= len(words) / THRESHOLD


def _first(number: int, words: Sequence[int], sets: Sequence[Sequence[int]], candidates: Sequence[int]) -> Pair | None:
    own = set(words)
    for candidate in candidates:
        other = sets[candidate]
        shared = len(own.intersection(other))
        similarity = shared / (len(own) + len(other) - shared)
        if similarity >= THRESHOLD:
            return Pair(number, candidate, similarity)
    return None
