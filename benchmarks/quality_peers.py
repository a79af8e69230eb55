"""The other libraries' trainers, each made to train on rows of a cache; what they need is imported late.

Which setting means what: quality_libraries.py.
"""

import itertools
import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from peers import AbsentError
from quality_job import DEAD, DECAY, THRESHOLDED, WARM_UP, Coder, Job
from torch import Tensor, nn

from monosem.dictionaries.matryoshka import MatryoshkaConfig

Knobs = dict[str, Any]


def sae_lens(job: Job, x: Tensor) -> Coder:
    """SAETrainer, from whose end an inference model is saved and loaded."""
    os.environ.setdefault("WANDB_MODE", "disabled")
    import sae_lens
    from sae_lens.config import LoggingConfig, SAETrainerConfig
    from sae_lens.training.sae_trainer import SAETrainer

    name, knobs = _sae_lens_kind(job)
    if job.tuned:
        knobs["normalize_activations"] = "expected_average_only_in"
    make = getattr(sae_lens, f"{name}TrainingSAEConfig")
    config = make(d_in=x.shape[1], d_sae=job.n_latents, **knobs)
    sae = getattr(sae_lens, f"{name}TrainingSAE")(config)
    lr = SAETrainerConfig.lr * job.multiple
    settings = SAETrainerConfig(
        total_training_samples=job.steps * job.batch,
        train_batch_size_samples=job.batch,
        lr=lr,
        lr_end=lr / 10,
        logger=LoggingConfig(log_to_wandb=False),
    )
    if job.tuned:
        settings.lr_decay_steps = job.share(DECAY)
        settings.dead_feature_window = job.share(DEAD)
    trainer = SAETrainer(cfg=settings, sae=sae, data_provider=iter(_Batches(job, x)))
    if job.tuned:
        trainer.activation_scaler.estimate_scaling_factor(x.shape[1], iter(_Batches(job, x)), 20)
    trainer.fit()
    with tempfile.TemporaryDirectory() as folder:
        sae.save_inference_model(folder)
        done = sae_lens.SAE.load_from_disk(folder)
    return Coder(
        encode=done.encode,
        decode=done.decode,
        directions=done.W_dec.detach(),
        lr=lr,
        set_threshold=_filler(job, done),
    )


def _sae_lens_kind(job: Job) -> tuple[str, Knobs]:
    """The name of its kind, and what must be told."""
    l1 = {"l1_coefficient": job.coefficient}
    kinds: dict[str, tuple[str, Knobs]] = {
        "topk": ("TopK", {"k": job.k}),
        "batch_topk": ("BatchTopK", {"k": job.k}),
        "matryoshka": (
            "MatryoshkaBatchTopK",
            {"k": job.k, "matryoshka_widths": _widths(job.n_latents)[:-1]},
        ),
        "jumprelu": (
            "JumpReLU",
            {"jumprelu_sparsity_loss_mode": "quadratic", "target_l0": job.k},
        ),
        "relu": ("Standard", l1),
        "gated": ("Gated", l1),
    }
    if job.architecture not in kinds:
        raise AbsentError
    return kinds[job.architecture]


def _widths(n_latents: int) -> list[int]:
    """Prefixes as ours has them, which are the paper's."""
    return list(MatryoshkaConfig(n_latents=n_latents).lengths)


def _filler(job: Job, done: Any) -> Callable[[float], object] | None:
    """What sets the one threshold, where there is one."""
    return done.threshold.data.fill_ if job.architecture in THRESHOLDED else None


@dataclass(frozen=True)
class _Batches:
    """Batches from the start whenever one begins to read them: trainSAE reads twice."""

    job: Job
    x: Tensor

    def __iter__(self) -> Iterator[Tensor]:
        return (batch.x for batch in self.job.rows(self.x))


def dictionary_learning(job: Job, x: Tensor) -> Coder:
    """`trainSAE` with one trainer, whose file is loaded."""
    os.environ.setdefault("WANDB_MODE", "disabled")
    from dictionary_learning import dictionary
    from dictionary_learning.training import trainSAE

    trainer, kind, knobs, lr = _dictionary_learning_kind(job)
    if job.tuned:
        knobs["decay_start"] = job.steps - job.share(DECAY)
        trainer = _noticing_the_dead(trainer, job)
    given = {
        "trainer": trainer,
        "steps": job.steps,
        "activation_dim": x.shape[1],
        "dict_size": job.n_latents,
        "layer": 0,
        "lm_name": "cache",
        "device": "cpu",
        "seed": job.seed,
        "lr": lr * job.multiple,
        "warmup_steps": job.share(WARM_UP),
        **knobs,
    }
    with tempfile.TemporaryDirectory() as folder:
        trainSAE(
            _Batches(job, x),
            [given],
            steps=job.steps,
            save_dir=folder,
            normalize_activations=job.tuned,
            device="cpu",
        )
        plain = {"normalize_decoder": False} if kind is dictionary.AutoEncoder else {}
        done = kind.from_pretrained(f"{folder}/trainer_0/ae.pt", **plain)
    return Coder(
        encode=done.encode,
        decode=done.decode,
        directions=(done.W_dec if hasattr(done, "W_dec") else done.decoder.weight.T).detach(),
        lr=lr * job.multiple,
        set_threshold=_filler(job, done),
    )


def _dictionary_learning_kind(job: Job) -> tuple[Any, Any, Knobs, float]:
    """Its trainer, its dictionary, what must be told, and its learning rate."""
    from dictionary_learning import dictionary
    from dictionary_learning.trainers import batch_top_k, gdm, jumprelu, p_anneal, standard, top_k
    from dictionary_learning.trainers import matryoshka_batch_top_k as matryoshka

    rise = {"sparsity_warmup_steps": 2 * job.share(WARM_UP)}
    top = {"k": job.k, "threshold_start_step": job.share(WARM_UP)}
    l1 = {**rise, "l1_penalty": 0.1 * job.coefficient}
    lengths = itertools.pairwise([0, *_widths(job.n_latents)])
    groups = {"group_fractions": [(b - a) / job.n_latents for a, b in lengths]}
    rule = 2e-4 / (job.n_latents / 2**14) ** 0.5
    plain = dictionary.AutoEncoder
    kinds: dict[str, tuple[Any, Any, Knobs, float]] = {
        "topk": (top_k.TopKTrainer, top_k.AutoEncoderTopK, top, rule),
        "batch_topk": (batch_top_k.BatchTopKTrainer, batch_top_k.BatchTopKSAE, top, rule),
        "matryoshka": (
            matryoshka.MatryoshkaBatchTopKTrainer,
            matryoshka.MatryoshkaBatchTopKSAE,
            {**top, **groups},
            rule,
        ),
        "jumprelu": (
            jumprelu.JumpReluTrainer,
            dictionary.JumpReluAutoEncoder,
            {**rise, "target_l0": float(job.k)},
            7e-5,
        ),
        "relu": (standard.StandardTrainer, plain, l1, 1e-3),
        "relu_april": (standard.StandardTrainerAprilUpdate, plain, l1, 1e-3),
        "gated": (gdm.GatedSAETrainer, dictionary.GatedAutoEncoder, l1, 5e-5),
        "p_anneal": (
            p_anneal.PAnnealTrainer,
            plain,
            {**rise, "initial_sparsity_penalty": 0.1 * job.coefficient},
            1e-3,
        ),
    }
    if job.architecture not in kinds:
        raise AbsentError
    return kinds[job.architecture]


def _noticing_the_dead(trainer: Any, job: Job) -> Any:
    """The trainer, which otherwise calls a latent dead after ten million tokens, an attribute."""

    class Noticing(trainer):
        def __init__(self, *given: Any, **named: Any) -> None:
            super().__init__(*given, **named)
            self.dead_feature_threshold = round(DEAD * job.steps * job.batch)

    return Noticing


class _Cache(nn.Module):
    """A model for sparsify: tokens are numbers of rows, and its module `site` puts out the rows."""

    def __init__(self, x: Tensor) -> None:
        super().__init__()
        self.site = nn.Embedding.from_pretrained(x)
        self.device = x.device
        self.dummy_inputs = {"input_ids": torch.zeros(1, 2, dtype=torch.long)}

    @property
    def base_model(self) -> nn.Module:
        return self

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.site(input_ids)


class _Numbers(torch.utils.data.Dataset):
    """Numbers of rows: one batch of ours is one sequence."""

    def __init__(self, job: Job, x: Tensor) -> None:
        batches = itertools.islice(job.rows(x), job.steps)
        self._rows = torch.stack([batch.rows for batch in batches])

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, place: int) -> dict[str, Tensor]:
        return {"input_ids": self._rows[place]}


def sparsify(job: Job, x: Tensor) -> Coder:
    """Trainer, on a model that looks rows up."""
    os.environ.setdefault("SPARSIFY_DISABLE_TRITON", "1")
    from sparsify import SparseCoder
    from sparsify.config import SparseCoderConfig
    from sparsify.config import TrainConfig as Settings
    from sparsify.trainer import Trainer

    if job.architecture != "topk":
        raise AbsentError
    lr = 5e-3 / (job.n_latents / 2**14) ** 0.5 * job.multiple
    with tempfile.TemporaryDirectory() as folder:
        config = Settings(
            SparseCoderConfig(num_latents=job.n_latents, k=job.k),
            batch_size=1,
            hookpoints=["site"],
            init_seeds=[job.seed],
            lr=lr,
            log_to_wandb=False,
            save_every=10**9,
            save_dir=folder,
        )
        if job.tuned:
            config.auxk_alpha = 1 / 32
            config.dead_feature_threshold = round(DEAD * job.steps * job.batch)
        model: Any = _Cache(x)
        dataset: Any = _Numbers(job, x)
        Trainer(config, dataset, model).fit()
        done = SparseCoder.load_from_disk(f"{folder}/unnamed/site")

    def encode(x: Tensor) -> Tensor:
        values, indices, _ = done.encode(x)
        return torch.zeros(len(x), job.n_latents).scatter(1, indices, values)

    def decode(latents: Tensor) -> Tensor:
        values, indices = latents.topk(job.k, dim=1)
        return done.decode(values, indices)

    assert done.W_dec is not None
    return Coder(encode=encode, decode=decode, directions=done.W_dec.detach(), lr=lr)
