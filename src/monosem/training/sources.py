"""Where a run's activations come from: a live model, or what was captured from it before."""

from collections.abc import Sequence

import torch

from monosem.activations.blocks import BlockSource
from monosem.activations.cached import StoreSource
from monosem.activations.capture import CaptureSource
from monosem.activations.sequence import SequenceSource
from monosem.activations.store import ActivationStore
from monosem.core.errors import ConfigError
from monosem.models.language_model import LanguageModel
from monosem.runtime.distributed import ALONE, World
from monosem.text.tokens import TokenStore
from monosem.training.settings import TrainConfig


def source_of(
    config: TrainConfig,
    model: LanguageModel,
    store: TokenStore,
    sites: Sequence[str],
    *,
    activations: ActivationStore | None = None,
    device: torch.device | str | None = None,
    world: World = ALONE,
) -> BlockSource:
    """Return the source of `sites`: what `activations` hold, or what `model` has at them.

    Ranks of `world` share out the passes of a live model, and are all served the same rows.

    Rows are served on `device`, the model's if None. Where that is another one, activations are made
    ahead, while dictionaries learn from those before.
    """
    # asked of a tensor, `cuda` has the number that the model's device has
    there = model.device if device is None else torch.empty(0, device=device).device
    if config.objective.kind != "reconstruction":
        return _sequences(config, model, store, sites, activations, there)
    if activations is not None:
        _check(activations, model, store)
        names = [str(model.check_site(site)) for site in sites]
        targets = [str(model.check_site(site)) for site in config.targets]
        return StoreSource(
            activations,
            names,
            targets or None,
            batch_size=config.batch_size,
            buffer_tokens=config.buffer_tokens,
            seed=config.seed,
            device=there,
        )
    return CaptureSource(
        model,
        store,
        sites,
        config.targets or None,
        batch_size=config.batch_size,
        buffer_tokens=config.buffer_tokens,
        n_rows=config.n_steps * config.batch_size,
        seed=config.seed,
        device=there,
        ahead=there != model.device,
        world=world.beside(),
    )


def _sequences(
    config: TrainConfig,
    model: LanguageModel,
    store: TokenStore,
    sites: Sequence[str],
    activations: ActivationStore | None,
    device: torch.device,
) -> SequenceSource:
    kind = config.objective.kind
    if activations is not None:
        raise ConfigError(
            f"The objective `{kind}` runs the language model on whole contexts; `{activations.path}` "
            "holds single tokens. Leave `activations` out, or train with `reconstruction`."
        )
    if device != model.device:
        raise ConfigError(
            f"The objective `{kind}` puts reconstructions into the language model, which is on "
            f"{model.device}, but dictionaries are asked for on {device}. Put both on one device."
        )
    return SequenceSource(
        model,
        store,
        sites,
        config.targets or None,
        batch_size=config.batch_size,
        logits=kind == "kl",
        seed=config.seed,
    )


def _check(activations: ActivationStore, model: LanguageModel, store: TokenStore) -> None:
    """Raise `ConfigError` unless `activations` are those of `model` on the tokens of `store`."""
    for what, own, wanted in (
        ("model", activations.config["model"], model.hash),
        ("token store", activations.config["tokens"], store.hash),
    ):
        if own != wanted:
            raise ConfigError(
                f"`{activations.path}` was captured from another {what} ({own}) than the one given "
                f"({wanted}): model `{activations.config['model_name']}`. Give that one, or capture "
                "again: `monosem capture`."
            )
