"""Rules: proxies by name, as a command line or a configuration spells them.

    digits                 one of `DEFAULTS`
    regex:\\bself\\b         a pattern
    script:hebrew          a Unicode script
    characters:dna         an alphabet of `ALPHABETS`, or the characters themselves
    tokens:17,18           tokens by number
    followed-by:17         tokens after which this one has come before

A rule may be given a name of its own: `numbers=regex:[0-9]+`.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from monosem.core.errors import ConfigError, unknown_name
from monosem.metrics.proxies import (
    ALPHABETS,
    SCRIPTS,
    Proxy,
    characters,
    followed_by,
    in_script,
    regex,
    script,
    token_set,
)
from monosem.metrics.sample import Text

DEFAULTS = {
    "digits": r"regex:\d+",
    "capitalised": r"regex:\b[A-Z]\w*",
    "upper case": r"regex:\b[A-Z]{2,}\b",
    "punctuation": r"regex:[^\w\s]+",
    "line break": r"regex:\n\s*",
    "after a digit": r"regex:(?<=\d)\D",
    "in quotes": r"regex:\"[^\"\n]+\"|'[^'\n]+'",
    "in brackets": r"regex:\([^()\n]+\)",
    "comment": r"regex:(?:#|//)[^\n]*",
    "identifier with _": r"regex:\b[a-z0-9]+(?:_[a-z0-9]+)+\b",
    "address": r"regex:https?://\S+",
    "hexadecimal": "characters:hexadecimal",
    "base64": "characters:base64",
}
"""Rules for any text; those of which it has too little are not applicable."""
KINDS = ("regex", "script", "characters", "tokens", "followed-by")
FEWEST_OF_SCRIPT = 40


def proxies_of(
    rules: Sequence[str], log_p: Float[np.ndarray, " vocab"], text: Text
) -> dict[str, Proxy]:
    """Return the proxies of `rules` by name; of none, the defaults and the scripts that `text` holds."""
    if rules:
        check_rules(rules, len(log_p))
        found = dict(_named(rule) for rule in rules)
    else:
        found = dict(DEFAULTS)
        for name, ranges in SCRIPTS.items():
            if in_script(text, ranges).sum() >= FEWEST_OF_SCRIPT:
                found[f"script {name}"] = f"script:{name}"
    return {name: proxy_of(rule, log_p) for name, rule in found.items()}


def proxy_of(rule: str, log_p: Float[np.ndarray, " vocab"]) -> Proxy:
    """Return the proxy that `rule` spells; `log_p` are logarithms of the tokens' shares."""
    kind, _, argument = DEFAULTS.get(rule, rule).partition(":")
    if kind not in KINDS:
        raise unknown_name("rule", rule, [*DEFAULTS, *(f"{kind}:" for kind in KINDS)])
    if kind == "regex":
        return regex(argument)
    if kind == "script":
        return script(argument)
    if kind == "characters":
        fewest = 2 if argument == "dna" else 1  # as in the paper: single letters are everywhere
        return characters(ALPHABETS.get(argument, argument), log_p, fewest_tokens=fewest)
    tokens = _numbers(rule, argument)
    if kind == "followed-by" and len(tokens) > 1:
        raise ConfigError(f"`{rule}` must name one token. Give a rule for each.")
    return token_set(tokens) if kind == "tokens" else followed_by(tokens[0])


def check_rules(rules: Sequence[str], n_vocab: int = 0) -> None:
    """Raise where a rule cannot be read, where two have one name, or for tokens past the vocabulary."""
    names = [_named(rule)[0] for rule in rules]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"Two rules are called `{name}`. Give each a name of its own.")
    for rule in rules:
        kind, _, argument = _named(rule)[1].partition(":")
        proxy_of(_named(rule)[1], np.zeros(0))
        for token in _numbers(rule, argument) if kind in ("tokens", "followed-by") else ():
            if token < 0 or (n_vocab and token >= n_vocab):
                raise ConfigError(
                    f"`{rule}` names token {token}; there are 0 to {n_vocab - 1}. Look it up in the "
                    "tokenizer."
                )


def _named(rule: str) -> tuple[str, str]:
    """Return the name of a rule, and the rule."""
    name, equals, rest = rule.partition("=")
    return (name, rest) if equals and rest.partition(":")[0] in KINDS else (rule, rule)


def _numbers(rule: str, argument: str) -> list[int]:
    try:
        return [int(number) for number in argument.split(",")]
    except ValueError as error:
        raise ConfigError(
            f"`{rule}` must name tokens by number, such as `tokens:17,18`. Look them up in the tokenizer."
        ) from error
