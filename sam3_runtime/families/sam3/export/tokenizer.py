"""A small CLIP tokenizer learnt from a list of words, for the demo's checkpoint and the checkpoint ``random``.

All ids are below 512.
"""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

VOCABULARY = 512
_WORDS = (
    "a an the person man woman child face cat dog bird horse rabbit flower cup coffee spoon saucer table plate "
    "astronaut rocket helmet flag suit tree grass leaf bush sky cloud stone brick coin key motorcycle bicycle wheel "
    "car bus truck road eye ear nose whisker paw fur hand hair red green blue yellow orange purple black white brown "
    "grey small large round square striped wooden metal left right visual object thing shape circle triangle"
)
WORDS = tuple(_WORDS.split())


def small_tokenizer() -> Any:
    """Return a ``transformers.CLIPTokenizer`` whose byte-pair merges are learnt from ``WORDS``; 32 tokens at most."""
    from transformers import CLIPTokenizer

    characters = [chr(code) for code in range(33, 127)]
    # Every character is also a token as the last one of a word, so that no word is unknown.
    alphabet = ["<|startoftext|>", "<|endoftext|>", *characters, *(f"{character}</w>" for character in characters)]
    merges = _learn_merges(VOCABULARY - len(alphabet))
    symbols = dict.fromkeys([*alphabet, *("".join(pair) for pair in merges)])
    vocab = {symbol: index for index, symbol in enumerate(symbols)}
    return CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=32)


def small_tokenizer_json() -> bytes:
    """Return the content of ``tokenizer.json`` for :func:`small_tokenizer`."""
    with TemporaryDirectory() as folder:
        small_tokenizer().save_pretrained(folder)
        return (Path(folder) / "tokenizer.json").read_bytes()


def _learn_merges(count: int) -> list[tuple[str, str]]:
    """Return the ``count`` most frequent byte pairs of ``WORDS``, one after the other, ties in alphabetical order.

    The library's own trainer resolves ties by the order of a hash table, and so writes another file every time.
    """
    words = [[*word[:-1], f"{word[-1]}</w>"] for word in WORDS]
    merges: list[tuple[str, str]] = []
    while len(merges) < count:
        pairs = Counter(pair for word in words for pair in pairwise(word))
        if not pairs:
            break
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        words = [_merge(word, best) for word in words]
    return merges


def _merge(word: list[str], pair: tuple[str, str]) -> list[str]:
    merged: list[str] = []
    for symbol in word:
        if merged and (merged[-1], symbol) == pair:
            merged[-1] += symbol
        else:
            merged.append(symbol)
    return merged
