"""Several passes of a model, made side by side where torch has several threads."""

import threading

import pytest
import torch

from monosem.core.errors import SiteError, TokenizerMismatchError
from monosem.models.language_model import LanguageModel


@pytest.fixture
def threads():
    """Sets the number of torch's threads, until the test ends."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.fixture
def passes():
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(0, 61, (n, 12), generator=generator) for n in (4, 4, 4, 4, 4, 1)]


@pytest.fixture
def by_thread():
    """Which threads a model was passed by, given to `watch`."""

    def watch(model: LanguageModel, several: bool = False) -> list[int]:
        seen: list[int] = []
        another = threading.Event()

        def note(*_: object) -> None:
            seen.append(threading.get_ident())
            if len(set(seen)) > 1:
                another.set()
            if (
                several and len(seen) == 2
            ):  # the first pass is alone; the second waits for another's
                another.wait(60)

        model.blocks[0].register_forward_pre_hook(note)
        return seen

    return watch


@pytest.mark.parametrize("name", ["gpt2", "gpt_neox", "llama", "gemma2"])
def test_side_by_side_every_pass_has_what_it_has_alone(make, passes, threads, by_thread, name):
    model = LanguageModel(make(name))
    sites = [site for site in model.sites() if "scale" not in site]
    alone = [model.capture(tokens, sites) for tokens in passes]
    seen = by_thread(model, several=True)
    threads(3)
    together = list(model.captures(passes, sites))
    assert len(set(seen)) > 1 and threading.get_ident() not in seen
    for one, other in zip(alone, together, strict=True):
        assert list(one) == list(other) == sites
        assert all(torch.equal(one[site], other[site]) for site in sites)
    assert torch.get_num_threads() == 3
    assert not model._board.tapped


def test_on_one_thread_and_under_an_edit_one_pass_is_made_at_a_time(
    make, passes, threads, by_thread
):
    model = LanguageModel(make("gpt2"))
    site, seen = "blocks.1.hook_resid_post", by_thread(model)
    list(model.captures(passes, [site]))
    threads(2)
    with model.replaced({"blocks.0.hook_resid_mid": torch.zeros_like}):
        edited = [found[site] for found in model.captures(passes, [site])]
        threads(1)
        wanted = [model.capture(tokens, [site])[site] for tokens in passes]
    assert set(seen) == {threading.get_ident()}
    for one, other in zip(edited, wanted, strict=True):
        torch.testing.assert_close(one, other)


def test_a_pass_by_hand_between_two_is_whole_and_seen_by_no_other(make, passes, threads):
    model = LanguageModel(make("gpt2"))
    site, logits = "blocks.0.hook_resid_post", model.logits(passes[0])
    wanted = [model.capture(tokens, [site])[site] for tokens in passes]
    threads(2)
    for found, each in zip(model.captures(passes, [site]), wanted, strict=True):
        torch.testing.assert_close(model.logits(passes[0]), logits)
        assert torch.equal(found[site], each)


def test_what_goes_wrong_in_a_pass_is_raised_and_the_model_is_left_untouched(
    make, passes, threads, monkeypatch
):
    model = LanguageModel(make("gpt2"))
    threads(2)
    with pytest.raises(TokenizerMismatchError, match="Token 61"):
        list(model.captures([*passes, torch.full((1, 3), 61)], ["hook_embed"]))
    monkeypatch.setattr(model.blocks[1], "forward", lambda x, *_, **__: x)
    with pytest.raises(SiteError, match="did not fire"):
        list(model.captures(passes, ["blocks.1.mlp.hook_post"]))
    assert not model._board.tapped
    assert not any(module._forward_hooks for module in model.model.modules())
