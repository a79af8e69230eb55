"""Proxies: what a token is, by a rule that nobody learnt, to be compared with what a unit fires on.

    characters   log-likelihood ratio  max over spans s that end at the token of log P(s | set) / P(s)
                 P(s | set) = Π 1 / |set| over its characters, 1e-10 for one that is not in the set;
                 P(s) = Π of the tokens' shares
    script       log P(script | token) / P(script)      P(script | token) = 1 where all characters are
                 in the blocks of the script; of a token that is part of a character: the share of its
                 occurrences; at least 1e-10
    regex        1 at tokens that overlap a match of the pattern in the text of their context
    token_set    1 at these tokens
    followed_by  1 at a token after which X has come before in its context

Bricken et al. 2023, "Towards Monosemanticity", "Feature proxies". Spans lie within a context and never
over a special token. A proxy gives a value for each token of a text [n context]; `Text.at` keeps the
ordinary ones.
"""

import re
from collections.abc import Callable, Iterable, Sequence

import numpy as np
from jaxtyping import Bool, Float, Int64

from monosem.core.errors import ConfigError, unknown_name
from monosem.metrics.sample import Text

Proxy = Callable[[Text], Float[np.ndarray, "n context"]]
"""Gives each token of a text a value; above 0 it speaks for the rule."""

FLOOR = 1e-10
"""Likelihood of a character outside the set, and of a token outside the script."""

SCRIPTS: dict[str, tuple[tuple[int, int], ...]] = {
    "arabic": ((0x600, 0x6FF), (0x750, 0x77F), (0x8A0, 0x8FF), (0xFB50, 0xFDFF), (0xFE70, 0xFEFF)),
    "armenian": ((0x530, 0x58F),),
    "bengali": ((0x980, 0x9FF),),
    "cherokee": ((0x13A0, 0x13FF), (0xAB70, 0xABBF)),
    "coptic": ((0x2C80, 0x2CFF), (0x3E2, 0x3EF)),
    "cyrillic": ((0x400, 0x52F), (0x1C80, 0x1C8F), (0x2DE0, 0x2DFF), (0xA640, 0xA69F)),
    "devanagari": ((0x900, 0x97F), (0xA8E0, 0xA8FF)),
    "georgian": ((0x10A0, 0x10FF), (0x1C90, 0x1CBF), (0x2D00, 0x2D2F)),
    "greek": ((0x370, 0x3E1), (0x3F0, 0x3FF), (0x1F00, 0x1FFF)),
    "han": ((0x2E80, 0x2FDF), (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF)),
    "hangul": ((0x1100, 0x11FF), (0x3130, 0x318F), (0xA960, 0xA97F), (0xAC00, 0xD7FF)),
    "hebrew": ((0x590, 0x5FF), (0xFB1D, 0xFB4F)),
    "kana": ((0x3040, 0x30FF), (0x31F0, 0x31FF), (0xFF66, 0xFF9F)),
    "syriac": ((0x700, 0x74F), (0x860, 0x86F)),
    "tamil": ((0xB80, 0xBFF),),
    "thai": ((0xE00, 0xE7F),),
}
"""Unicode blocks of scripts."""

ALPHABETS = {
    "base64": "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/",
    "hexadecimal": "0123456789abcdef",
    "dna": "ACGT",
    "digits": "0123456789",
}


def characters(
    alphabet: str, log_p: Float[np.ndarray, " vocab"], *, fewest_tokens: int = 1
) -> Proxy:
    """Return the proxy of text in `alphabet`, over spans of `fewest_tokens` or more.

    `log_p` are logarithms of the tokens' shares (`unigram`). The paper's own: 64 characters of base64;
    ACGT for DNA in at least two tokens.
    """
    if not alphabet or fewest_tokens < 1:
        raise ConfigError(
            f"`alphabet` has {len(alphabet)} characters and `fewest_tokens` is {fewest_tokens}. Both must be "
            "1 or more."
        )
    known, each, floor = frozenset(alphabet), -np.log(len(set(alphabet))), np.log(FLOOR)

    def proxy(text: Text) -> Float[np.ndarray, "n context"]:
        ratio = np.empty(text.tokens.shape)
        for row, (tokens, pieces) in enumerate(zip(text.tokens, text.pieces, strict=True)):
            last = ""
            for place, (token, piece) in enumerate(zip(tokens, pieces, strict=True)):
                if piece:
                    inside = sum(c in known for c in piece)
                    likelihood, last = inside * each + (len(piece) - inside) * floor, piece[-1]
                else:  # the rest of a character, which has been counted, if it is one of the set
                    likelihood = 0.0 if last in known else floor
                ratio[row, place] = likelihood - log_p[token]
        return best_spans(ratio, _breaks(text), fewest_tokens)

    return proxy


def script(name: str, *, blocks: Sequence[tuple[int, int]] = ()) -> Proxy:
    """Return the proxy of a script, by its name in `SCRIPTS` or by Unicode blocks of your own.

    Spaces of a token do not count, unless it has nothing else. Shares are those of the text itself.
    """
    if not blocks and name not in SCRIPTS:
        raise unknown_name("script", name, SCRIPTS)
    ranges = tuple(blocks) or SCRIPTS[name]

    def proxy(text: Text) -> Float[np.ndarray, "n context"]:
        inside = in_script(text, ranges)
        chosen = text.tokens[text.ordinary]
        n_each = np.bincount(chosen, minlength=int(text.tokens.max()) + 1)
        n_in = np.bincount(chosen, inside[text.ordinary], minlength=len(n_each))
        overall = max(float(inside[text.ordinary].mean()) if len(chosen) else 0.0, FLOOR)
        share = n_in / np.maximum(n_each, 1)
        return np.log(np.maximum(share, FLOOR))[text.tokens] - np.log(overall)

    return proxy


def in_script(text: Text, ranges: Sequence[tuple[int, int]]) -> Bool[np.ndarray, "n context"]:
    """Return which tokens stand for characters of these blocks, parts of characters included."""
    found = np.zeros(text.tokens.shape, bool)
    for row, pieces in enumerate(text.pieces):
        inside = False
        for place, piece in enumerate(pieces):
            letters = piece.strip()
            if piece:
                inside = bool(letters) and all(
                    any(low <= ord(c) <= high for low, high in ranges) for c in letters
                )
            found[row, place] = inside and bool(text.ordinary[row, place])
    return found


def regex(pattern: str) -> Proxy:
    """Return the proxy of a regular expression (Python's `re`), matched in each document by itself."""
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise ConfigError(
            f"`{pattern}` is no regular expression: {error}. Escape what is meant as it stands."
        ) from error

    def proxy(text: Text) -> Float[np.ndarray, "n context"]:
        found = np.zeros(text.tokens.shape)
        for row, pieces in enumerate(text.pieces):
            for start, stop in _segments(pieces, text.ordinary[row]):
                ends = np.cumsum([len(piece) for piece in pieces[start:stop]])
                for match in compiled.finditer("".join(pieces[start:stop])):
                    if match.end() > match.start():
                        first = int(np.searchsorted(ends, match.start(), side="right"))
                        last = int(np.searchsorted(ends, match.end(), side="left"))
                        rest = int(np.searchsorted(ends, match.end(), side="right")) - 1
                        # all tokens of a character
                        found[row, start + first : start + max(last, rest) + 1] = 1.0
        return found

    return proxy


def token_set(tokens: Iterable[int]) -> Proxy:
    """Return the proxy of a set of tokens."""
    wanted = np.fromiter(tokens, np.int64)
    return lambda text: np.isin(text.tokens, wanted).astype(np.float64)


def followed_by(token: int) -> Proxy:
    """Return the proxy of tokens after which `token` has come before in the same context."""

    def proxy(text: Text) -> Float[np.ndarray, "n context"]:
        found = np.zeros(text.tokens.shape)
        for row, tokens in enumerate(text.tokens):
            before: set[int] = set()
            for place, own in enumerate(tokens.tolist()):
                found[row, place] = own in before
                if own == token and place > 0:
                    before.add(int(tokens[place - 1]))
        return found

    return proxy


def unigram(counts: Int64[np.ndarray, " vocab"]) -> Float[np.ndarray, " vocab"]:
    """Return logarithms of the tokens' shares, one occurrence added to each.

    >>> np.exp(unigram(np.array([1, 0, 5]))).round(3).tolist()
    [0.222, 0.111, 0.667]
    """
    return np.log((counts + 1) / (counts.sum() + len(counts)))


def best_spans(
    ratio: Float[np.ndarray, "n context"], breaks: Bool[np.ndarray, "n context"], fewest: int
) -> Float[np.ndarray, "n context"]:
    """Return the largest sum of `ratio` over `fewest` or more places that end at each, within breaks.

    −inf where there is none, and at breaks.
    """
    ratio = np.where(breaks, -np.inf, ratio)
    one = np.full(ratio.shape, -np.inf)
    best = np.full(ratio.shape, -np.inf)
    for place in range(ratio.shape[1]):
        before = one[:, place - 1] if place else np.full(len(ratio), -np.inf)
        one[:, place] = ratio[:, place] + np.maximum(before, 0.0)
        start = place - fewest + 1
        if start < 0:
            continue
        before = one[:, start - 1] if start else np.full(len(ratio), -np.inf)
        best[:, place] = ratio[:, start : place + 1].sum(1) + np.maximum(before, 0.0)
    return best


def _segments(
    pieces: Sequence[str], ordinary: Bool[np.ndarray, " context"]
) -> list[tuple[int, int]]:
    """Return the stretches of text between special tokens, which stand between documents."""
    special = [i for i, p in enumerate(pieces) if not p and not ordinary[i]]
    edges = [-1, *special, len(pieces)]
    return [(a + 1, b) for a, b in zip(edges, edges[1:], strict=False) if b > a + 1]


def _breaks(text: Text) -> Bool[np.ndarray, "n context"]:
    return ~text.ordinary
