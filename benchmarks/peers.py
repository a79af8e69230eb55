"""Other libraries' training steps, as their own trainers make them; none of them is a dependency.

`make bench-peers` installs them into an environment of their own, `.venv-peers`, together with this
package. `steps(...)` gives one callable a library for an architecture, and says of every library that
has none why. Each makes a whole step: loss, gradients, clipping, optimiser, normalisation, and its
own bookkeeping of dead latents.
"""

import contextlib
import io
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

Step = Callable[[], object]
AUX_WEIGHT = 1 / 32
"""Weight of eai-sparsify's term for dead latents, as in its paper and ours."""


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What is trained on what."""

    d_in: int
    n_latents: int
    batch: int
    k: int
    device: str = "cpu"
    peer_dead: float = 0.0
    """Share of latents that eai-sparsify counts as dead; 0: it leaves its term for them out."""


def steps(architecture: str, shape: Shape, pool: list[torch.Tensor]) -> dict[str, Step | str]:
    """Return the step of each library, or a sentence that says why there is none."""
    found: dict[str, Step | str] = {}
    for library, build in LIBRARIES.items():
        try:
            with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
                warnings.simplefilter("ignore")
                step = build(architecture, shape, _cycle(pool))
                step()
        except ModuleNotFoundError as error:
            found[library] = f"not installed ({error.name})"
        except AbsentError:
            found[library] = f"has no {architecture}"
        except (RuntimeError, TypeError, ValueError, AttributeError, AssertionError) as error:
            found[library] = f"its step fails ({type(error).__name__}: {str(error)[:120]})"
        else:
            found[library] = step
    return found


class AbsentError(Exception):
    """The library lacks the architecture."""


def _cycle(pool: list[torch.Tensor]) -> Iterator[torch.Tensor]:
    while True:
        yield from pool


def _sae_lens(architecture: str, shape: Shape, data: Iterator[torch.Tensor]) -> Step:
    os.environ.setdefault("WANDB_MODE", "disabled")
    import sae_lens
    from sae_lens.config import LoggingConfig, SAETrainerConfig
    from sae_lens.training.sae_trainer import SAETrainer

    kinds = {
        "topk": ("TopK", {"k": shape.k}),
        "batch_topk": ("BatchTopK", {"k": shape.k}),
        "matryoshka": (
            "MatryoshkaBatchTopK",
            {"k": shape.k, "matryoshka_widths": [shape.n_latents // 16, shape.n_latents // 4]},
        ),
        "relu": ("Standard", {"l1_coefficient": 1.0}),
        "jumprelu": ("JumpReLU", {"l0_coefficient": 1.0}),
        "gated": ("Gated", {"l1_coefficient": 1.0}),
    }
    if architecture not in kinds:
        raise AbsentError
    name, knobs = kinds[architecture]
    config = getattr(sae_lens, f"{name}TrainingSAEConfig")(
        d_in=shape.d_in, d_sae=shape.n_latents, device=shape.device, dtype="float32", **knobs
    )
    sae = getattr(sae_lens, f"{name}TrainingSAE")(config)
    settings = SAETrainerConfig(
        n_checkpoints=0,
        checkpoint_path=tempfile.gettempdir(),
        save_final_checkpoint=False,
        total_training_samples=shape.batch * 10_000,
        device=shape.device,
        autocast=False,
        lr=3e-4,
        lr_end=3e-5,
        lr_scheduler_name="constant",
        lr_warm_up_steps=0,
        adam_beta1=0.9,
        adam_beta2=0.999,
        lr_decay_steps=0,
        n_restart_cycles=1,
        train_batch_size_samples=shape.batch,
        dead_feature_window=1000,
        feature_sampling_window=2000,
        logger=LoggingConfig(log_to_wandb=False),
    )
    trainer = SAETrainer(cfg=settings, sae=sae, data_provider=data)
    sae.train()

    def step() -> object:
        x = next(data)
        trainer.n_training_samples += len(x)
        output = trainer._train_step(sae=sae, sae_in=trainer.activation_scaler(x))
        trainer.n_training_steps += 1
        return output.loss.item()

    return step


def _dictionary_learning(architecture: str, shape: Shape, data: Iterator[torch.Tensor]) -> Step:
    from dictionary_learning.trainers import (
        batch_top_k,
        gdm,
        jumprelu,
        matryoshka_batch_top_k,
        p_anneal,
        standard,
        top_k,
    )

    penalty = {"sparsity_warmup_steps": 10, "lr": 1e-3, "l1_penalty": 0.05}
    kinds = {
        "topk": (top_k.TopKTrainer, {"k": shape.k}),
        "batch_topk": (batch_top_k.BatchTopKTrainer, {"k": shape.k}),
        "matryoshka": (
            matryoshka_batch_top_k.MatryoshkaBatchTopKTrainer,
            {"k": shape.k, "group_fractions": [1 / 16, 3 / 16, 3 / 4]},
        ),
        "relu": (standard.StandardTrainer, penalty),
        "relu_april": (standard.StandardTrainerAprilUpdate, penalty),
        "jumprelu": (jumprelu.JumpReluTrainer, {"sparsity_warmup_steps": 10, "target_l0": shape.k}),
        "gated": (gdm.GatedSAETrainer, penalty),
        "p_anneal": (
            p_anneal.PAnnealTrainer,
            {"sparsity_warmup_steps": 10, "lr": 1e-3, "initial_sparsity_penalty": 0.05},
        ),
    }
    if architecture not in kinds:
        raise AbsentError
    trainer_class, knobs = kinds[architecture]
    trainer = trainer_class(
        steps=100_000,
        activation_dim=shape.d_in,
        dict_size=shape.n_latents,
        layer=0,
        lm_name="none",
        device=shape.device,
        warmup_steps=10,
        **knobs,
    )
    made = 0

    def step() -> object:
        nonlocal made
        made += 1
        return trainer.update(made, next(data))

    return step


def _sparsify(architecture: str, shape: Shape, data: Iterator[torch.Tensor]) -> Step:
    if shape.device == "cpu":
        os.environ.setdefault("SPARSIFY_DISABLE_TRITON", "1")
    from sparsify import SparseCoder
    from sparsify.config import SparseCoderConfig

    if architecture != "topk":
        raise AbsentError
    coder = SparseCoder(
        shape.d_in,
        SparseCoderConfig(num_latents=shape.n_latents, k=shape.k),
        device=shape.device,
        dtype=torch.float32,
    )
    optimizer = torch.optim.Adam(coder.parameters(), lr=3e-4)
    n_dead = round(shape.peer_dead * shape.n_latents)
    dead = torch.arange(shape.n_latents, device=shape.device) < n_dead if n_dead else None

    def step() -> object:
        x = next(data)
        output = coder(x, x, dead_mask=dead)
        (output.fvu + AUX_WEIGHT * output.auxk_loss).backward()
        torch.nn.utils.clip_grad_norm_(coder.parameters(), 1.0)
        coder.remove_gradient_parallel_to_decoder_directions()
        optimizer.step()
        optimizer.zero_grad()
        coder.set_decoder_norm_to_unit_norm()
        return output.fvu.item()

    return step


LIBRARIES: dict[str, Callable[[str, Shape, Iterator[torch.Tensor]], Step]] = {
    "sae-lens": _sae_lens,
    "dictionary-learning": _dictionary_learning,
    "eai-sparsify": _sparsify,
}
