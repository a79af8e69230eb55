"""What a tokenizer can say in one token: the side of a tokenizer that test cases need."""

import re
from functools import cached_property
from typing import cast

from transformers import PreTrainedTokenizerBase

_WORD = re.compile(r" [A-Za-z]{2,12}")


class Vocabulary:
    """The tokens of a model, with the tokenizer where there is one."""

    def __init__(self, size: int, tokenizer: PreTrainedTokenizerBase | None = None) -> None:
        """Know `size` tokens; without a tokenizer only cases made of tokens can be had."""
        self.size = size
        self.tokenizer = tokenizer
        self._encoded: dict[str, list[int]] = {}

    @property
    def bos(self) -> int | None:
        """The token that begins every context, if the tokenizer has one."""
        return None if self.tokenizer is None else cast(int | None, self.tokenizer.bos_token_id)

    def encode(self, text: str) -> list[int]:
        """Return the tokens of `text`, none put in."""
        if self.tokenizer is None:
            return []
        if text not in self._encoded:  # prompts share their words, and a run asks them often
            ids = self.tokenizer.encode(text, add_special_tokens=False)
            self._encoded[text] = list(ids)
        return self._encoded[text]

    def tokens(self, text: str | tuple[int, ...]) -> list[int]:
        """Return the tokens of a prompt, BOS first where there is one."""
        ids = self.encode(text) if isinstance(text, str) else list(text)
        return ids if self.bos is None else [self.bos, *ids]

    def first(self, prompt: str | tuple[int, ...], then: str | tuple[int, ...]) -> int | None:
        """Return the first token of `then` after `prompt`; None where the two share a token."""
        if isinstance(prompt, tuple) or isinstance(then, tuple):
            return then[0] if isinstance(then, tuple) and then else None
        before, whole = self.encode(prompt), self.encode(prompt + then)
        if len(whole) <= len(before) or whole[: len(before)] != before:
            return None
        return whole[len(before)]

    def is_single(self, word: str) -> bool:
        """Whether ` word`, with its space, is one token after other text."""
        before, whole = self.encode("and"), self.encode(f"and {word}")
        return len(whole) == len(before) + 1 and whole[: len(before)] == before

    def single(self, words: tuple[str, ...]) -> tuple[str, ...]:
        """Return those of `words` that are one token each."""
        return tuple(word for word in words if self.is_single(word))

    @cached_property
    def plain(self) -> tuple[int, ...]:
        """Tokens to make random text of: those that are words, or all ordinary ones if few are."""
        if self.tokenizer is None:
            return tuple(range(self.size))
        special = set(self.tokenizer.all_special_ids)
        known = [i for i in range(min(self.size, len(self.tokenizer))) if i not in special]
        words = [i for i in known if _WORD.fullmatch(self.piece(i))]
        return tuple(words if len(words) >= 100 else known)

    def piece(self, token: int) -> str:
        """Return the token's text, a leading space as a space."""
        if self.tokenizer is None:
            return ""
        raw = self.tokenizer.convert_ids_to_tokens(token)
        return str(raw).replace("Ġ", " ").replace("▁", " ")
