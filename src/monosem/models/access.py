"""Reading and replacing the activations of a causal language model of `transformers`.

model.capture(tokens, ["blocks.0.mlp.hook_post"])          one pass, stops after the last site
model.captures(passes, ["blocks.0.mlp.hook_post"])         several, side by side on a CPU
with model.replaced({"blocks.0.hook_mlp_out": fn}): ...    every pass inside sees fn's value
with model.capturing(sites, gradients=True) as seen: ...   whole passes, for d loss / d site
"""

import contextlib
import contextvars
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from typing import cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from monosem.core.errors import (
    ConfigError,
    ShapeMismatchError,
    SiteError,
    TokenizerMismatchError,
    UnknownNameError,
    suggestion,
)
from monosem.models.families import Family, family_of
from monosem.models.places import base_of, blocks_of, places_of, submodule
from monosem.models.site import RESIDUAL_POINTS, Site, listing
from monosem.models.taps import Board, Edit, Tap
from monosem.runtime import threads


class _StopPassError(Exception):
    """Ends a forward pass after the last needed site."""


class TransformerAccess:
    """A causal language model, its sites, and what flows through them."""

    concurrent = True
    """Whether several threads may pass the model while activations are read."""

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase | None = None,
        *,
        name: str = "",
        family: Family | None = None,
    ) -> None:
        """Wrap `model`, which is put into evaluation mode and otherwise left as it is."""
        text = model.config.get_text_config()
        self.family = family or family_of(model.config)
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.name = name or model.config.name_or_path or model.config.model_type
        self.blocks = blocks_of(model, self.family)
        self.n_layers = len(self.blocks)
        self.d_model = int(text.hidden_size)
        self.n_heads = int(text.num_attention_heads)
        self.n_kv_heads = int(getattr(text, "num_key_value_heads", None) or self.n_heads)
        self.vocab_size = int(text.vocab_size)
        self.context = int(text.max_position_embeddings)
        self._base = base_of(model, self.family)
        self._board = Board(places_of(model, self.family, self.n_heads))
        self._passed = False
        """Whether a pass was made before several were made side by side."""

    @property
    def device(self) -> torch.device:
        """Where the model's weights are."""
        return self.model.device

    def sites(self) -> list[str]:
        """Return the names of all sites of this model, in the order of the forward pass."""
        return [site.name for site in self._board.places]

    def check_site(self, site: str | Site) -> Site:
        """Return the site that `site` names; `UnknownNameError` with the nearest names if none."""
        try:
            found = Site.parse(site)
        except KeyError:
            found = None
        if found is None or found not in self._board.places:
            raise UnknownNameError(
                f"`{self.name}` has no site `{site}`.{suggestion(str(site), self.sites())} "
                f"It has: {listing(self._board.places)}."
            )
        return found

    def width(self, site: str | Site) -> int:
        """Return the width of the vector a token has at `site`; heads count flattened.

        Scores and patterns have none (their last axis is the key position): `ConfigError`.
        """
        found = self.check_site(site)
        row = self.family
        d_z = matrix(self._part(found, row.o_proj)).shape[0]
        d_mlp = matrix(self._part(found, row.down)).shape[0] if row.mlp else 0
        widths = {
            "attn.hook_q": d_z,
            "attn.hook_z": d_z,
            "attn.hook_k": d_z // self.n_heads * self.n_kv_heads,
            "attn.hook_v": d_z // self.n_heads * self.n_kv_heads,
            "mlp.hook_pre": d_mlp,
            "mlp.hook_post": d_mlp,
        }
        if found.point in widths:
            return widths[found.point]
        if found.point.endswith("hook_scale"):
            return 1
        if found.point in RESIDUAL_POINTS or found.point.endswith("hook_normalized"):
            return self.d_model
        raise ConfigError(
            f"`{found}` has no width: its last axis is the key position, as long as the context. "
            "Choose a site with a vector for each token, such as `attn.hook_z`."
        )

    def capture(
        self, tokens: Int[Tensor, "batch pos"], sites: Sequence[str], *, gradients: bool = False
    ) -> dict[str, Tensor]:
        """Return the activations at `sites`, each in its own shape, under the names asked for.

        One pass without logits that stops after the last needed site. With `gradients` the
        tensors lie on one graph, so later sites can be differentiated by earlier ones; without,
        nothing is recorded. A site that does not fire raises `SiteError`.
        """
        tokens = self.check_tokens(tokens)
        with (
            torch.set_grad_enabled(gradients),
            self._reading(sites, gradients=gradients, stop=True) as seen,
            contextlib.suppress(_StopPassError),
        ):
            self._base(input_ids=tokens, use_cache=False)
        return self._fired(seen, sites)

    def captures(
        self, passes: Iterable[Tensor], sites: Sequence[str]
    ) -> Iterator[dict[str, Tensor]]:
        """Yield what `capture` returns for each of `passes`, in their order.

        Where torch has several threads on a CPU, as many passes are made side by side, one thread each:
        many operations of a pass are too short, or know only one thread, so that all threads together
        on each pass mostly wait. A pass is then rounded as on one thread, whatever their number.
        """
        n_threads = torch.get_num_threads()
        alone = n_threads == 1 or self.device.type != "cpu" or self._board.tapped
        if alone or not self.concurrent:
            for tokens in passes:
                yield self.capture(tokens, sites)
        else:
            yield from self._side_by_side(passes, sites, n_threads)

    @contextlib.contextmanager
    def capturing(
        self, sites: Sequence[str], *, gradients: bool = False
    ) -> Generator[dict[str, Tensor]]:
        """Yield a dictionary that every whole pass inside the block fills anew.

        With `gradients` each tensor is on the graph of what follows it, so that
        `torch.autograd.grad(loss, list(seen.values()))` works even where all weights are frozen.
        """
        with self._reading(sites, gradients=gradients, stop=False) as seen:
            yield seen

    @contextlib.contextmanager
    def replaced(self, edits: Mapping[str, Callable[[Tensor], Tensor]]) -> Generator[None]:
        """Put `fn(activation)` in place of the activation at each site, for every pass inside.

        Contexts nest: on one site the inner function is given what the outer one returned.
        A function that returns its argument itself changes nothing, bit for bit.
        """
        taps = [(self.check_site(site), Tap(fn, edits=True)) for site, fn in edits.items()]
        with self._tapped(taps):
            yield

    def logits(self, tokens: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch pos vocab"]:
        """Return the logits of the whole model, as `transformers` computes them."""
        tokens = self.check_tokens(tokens)
        with self._board.lock:
            return self.model(input_ids=tokens, use_cache=False).logits

    def losses(self, tokens: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch pos-1"]:
        """Return the next-token loss in nats; position t is the loss on token t + 1."""
        logits = self.logits(tokens)[:, :-1]
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        targets = tokens[:, 1:].to(logits.device, torch.int64).unsqueeze(-1)
        return logits.logsumexp(-1) - logits.gather(-1, targets).squeeze(-1)

    def check_tokens(self, tokens: Int[Tensor, "batch pos"]) -> Int[Tensor, "batch pos"]:
        """Return `tokens` on the model's device, if its vocabulary and context can hold them."""
        if tokens.shape[1] > self.context:
            raise ShapeMismatchError(
                f"The tokens have {tokens.shape[1]} positions; `{self.name}` has {self.context}. "
                "Use shorter contexts."
            )
        if tokens.device.type == "cpu" and tokens.numel() > 0:  # elsewhere it would wait
            low, high = (int(x) for x in tokens.aminmax())
            if low < 0 or high >= self.vocab_size:
                raise TokenizerMismatchError(
                    f"Token {low if low < 0 else high} is outside the vocabulary of `{self.name}` "
                    f"(0 to {self.vocab_size - 1}). Tokenize the text with the model's own tokenizer."
                )
        return tokens.to(self.device)

    def _side_by_side(
        self, passes: Iterable[Tensor], sites: Sequence[str], n_threads: int
    ) -> Generator[dict[str, Tensor]]:
        """Make `n_threads` passes at a time; what each thread sees is its own."""
        own = threading.local()

        def one(tokens: Tensor) -> dict[str, Tensor]:
            own.seen = {}
            with torch.no_grad(), contextlib.suppress(_StopPassError):
                self._base(input_ids=tokens, use_cache=False)
            return self._fired(own.seen, sites)

        waiting: deque[Future[dict[str, Tensor]]] = deque()
        with (
            self._reading(sites, gradients=False, stop=True, own=own),
            threads.pool(n_threads, 1, "passes") as pool,
        ):
            for tokens in map(self.check_tokens, passes):
                waiting.append(pool.submit(contextvars.copy_context().run, one, tokens))
                if not self._passed:  # what a model does once, it does not do in two threads
                    waiting[0].exception()
                    self._passed = True
                if len(waiting) > n_threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()

    def _fired(self, seen: dict[str, Tensor], sites: Sequence[str]) -> dict[str, Tensor]:
        """Return what was seen at `sites`, in their order; `SiteError` where one is missing."""
        missing = [name for name in sites if name not in seen]
        if missing:
            raise SiteError(
                f"`{missing[0]}` did not fire in `{self.name}`: the model does not call that module. "
                "Correct its path in the `Family` row."
            )
        return {name: seen[name] for name in sites}

    @contextlib.contextmanager
    def _reading(
        self,
        sites: Sequence[str],
        *,
        gradients: bool,
        stop: bool,
        own: threading.local | None = None,
    ) -> Generator[dict[str, Tensor]]:
        """Yield what passes inside see; with `own`, each thread sees into its own `own.seen`."""
        if isinstance(sites, str):
            raise ConfigError(f"Pass the sites as a list: `[{sites!r}]`, not `{sites!r}`.")
        seen: dict[str, Tensor] = {}
        wanted = len(set(sites))

        def reader(name: str) -> Edit:
            def read(x: Tensor) -> Tensor:
                if gradients and not x.requires_grad:
                    x = x.detach().requires_grad_()
                here = seen if own is None else getattr(own, "seen", None)
                if here is None:
                    return x
                here[name] = x
                if stop and len(here) == wanted:
                    raise _StopPassError
                return x

            return read

        names = dict.fromkeys(sites)
        with self._tapped([(self.check_site(n), Tap(reader(n), edits=False)) for n in names]):
            yield seen

    @contextlib.contextmanager
    def _tapped(self, taps: Sequence[tuple[Site, Tap]]) -> Generator[None]:
        with contextlib.ExitStack() as stack:
            stack.enter_context(self._board.lock)
            for site, tap in taps:
                self._board.add(site, tap)
                stack.callback(self._board.remove, site, tap)
            yield

    def _part(self, site: Site, path: str) -> nn.Module:
        return submodule(self.blocks[site.layer or 0], path)


def matrix(module: nn.Module) -> Float[Tensor, "d_in d_out"]:
    """Return the weight of a linear map as [d_in d_out]; GPT-2's `Conv1D` stores it so, `Linear` not."""
    weight = cast(Tensor, module.weight)
    return weight.T if isinstance(module, nn.Linear) else weight
