"""Training by each library's own means, on the same rows in the same order; what comes out is a `Coder`.

    monosem               Learner, as `monosem train` uses it
    sae-lens              SAETrainer.fit, then save_inference_model and SAE.load_from_disk
    dictionary-learning   trainSAE with a trainer of its own, then from_pretrained
    eai-sparsify          Trainer.fit, which hooks a model: one that looks up rows of the cache

Setting "defaults" leaves everything at the library's own defaults but what is counted in steps and
cannot be in so short a run: dictionary-learning's warm-ups of 1,000 and 2,000 steps and its first
step of the threshold are WARM_UP and twice that share of the run. Setting "tuned" takes what its own
tutorials recommend beside the defaults (scaled inputs, a decay over the last fifth), counts
latents as dead after the share of the run that ours has, and is tried at several learning rates.
Ours are the same in both settings.
"""

import contextlib
import io
import itertools
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from peers import AbsentError
from torch import Tensor, nn

from monosem.activations.scale import ScaledSource, scale_of
from monosem.activations.source import TensorSource
from monosem.dictionaries.base import architectures
from monosem.runtime import matmul
from monosem.training.learner import Learner
from monosem.training.optim import OptimConfig
from monosem.training.settings import TrainConfig

OURS = "monosem"
WARM_UP = 0.05
"""Share of a run over which peers with a warm-up rise, as ours do."""
DECAY = 0.2
"""Share of a run over which tuned learning rates fall."""
DEAD = TrainConfig.dead_after_share
SAMPLE = 32_768
"""Rows from which ours start."""
STEERED = ("k", "l0", "target_l0")
THRESHOLDED = ("batch_topk", "matryoshka")
"""Kinds whose latents are all that reach one threshold."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """One training run."""

    architecture: str
    k: int
    n_latents: int
    steps: int
    batch: int
    seed: int
    tuned: bool = False
    multiple: float = 1.0
    """The learning rate, in multiples of the library's default."""
    coefficient: float = 1.0
    """The penalty of a peer that knows no target, in multiples of its default."""

    def rows(self, x: Tensor) -> TensorSource:
        """The stream of this run's batches: a function of its seed, the same for every library."""
        return TensorSource(x, batch_size=self.batch, seed=self.seed)

    def share(self, part: float) -> int:
        """So much of the run, in steps."""
        return max(1, round(part * self.steps))


@dataclass(frozen=True, kw_only=True)
class Coder:
    """A trained dictionary: how its library encodes and decodes raw activations."""

    encode: Callable[[Tensor], Tensor]
    decode: Callable[[Tensor], Tensor]
    directions: Tensor
    """One row a latent."""
    lr: float
    """Peak learning rate of the run."""
    set_threshold: Callable[[float], object] | None = None
    """Sets the one threshold of a thresholded kind."""


def train(library: str, job: Job, x: Tensor) -> Coder:
    """Train as `job` says on the rows of `x`; AbsentError where the library has no such kind."""
    torch.manual_seed(job.seed)
    quiet = contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO())
    with warnings.catch_warnings(), quiet[0], quiet[1]:
        warnings.simplefilter("ignore")
        return LIBRARIES[library](job, x)


def _monosem(job: Job, x: Tensor) -> Coder:
    kind = architectures()[job.architecture]
    names = kind.config_type.__dataclass_fields__
    steered = {name: type(names[name].default)(job.k) for name in STEERED if name in names}
    width = x.shape[1]
    config = kind.config_type(n_latents=job.n_latents, seed=job.seed, **steered)
    dictionary = kind(config.with_widths(width, width))
    optim = OptimConfig(lr=OptimConfig.lr * job.multiple)
    raw = job.rows(x)
    sample = raw.sample(min(SAMPLE, job.steps * job.batch))
    source = ScaledSource(raw, scale_of(sample.x))
    sample = source.scaled(sample)
    dead = max(1, round(DEAD * job.steps * job.batch))
    with matmul.scope("fp32"):
        dictionary.initialise_(sample.x, sample.target)
        learner = Learner(job.architecture, dictionary, optim, n_steps=job.steps, dead_tokens=dead)
        for batch in itertools.islice(source, job.steps):
            learner.step(batch, source)
    folded: Any = dictionary.folded(source.scale)

    def encode(x: Tensor) -> Tensor:
        with matmul.scope("fp32"):
            return folded.encode(x)

    def set_threshold(value: float) -> None:
        folded.threshold.fill_(value)

    return Coder(
        encode=encode,
        decode=folded.decode,
        directions=folded.W_dec.detach(),
        lr=optim.lr / (job.n_latents / 2**14) ** 0.5,
        set_threshold=set_threshold if job.architecture in THRESHOLDED else None,
    )


def _sae_lens(job: Job, x: Tensor) -> Coder:
    os.environ.setdefault("WANDB_MODE", "disabled")
    import sae_lens
    from sae_lens.config import LoggingConfig, SAETrainerConfig
    from sae_lens.training.sae_trainer import SAETrainer

    kinds: dict[str, tuple[str, dict[str, Any]]] = {
        "topk": ("TopK", {"k": job.k}),
        "batch_topk": ("BatchTopK", {"k": job.k}),
        "matryoshka": (
            "MatryoshkaBatchTopK",
            {"k": job.k, "matryoshka_widths": _widths(job.n_latents)[:-1]},
        ),
        "jumprelu": (
            "JumpReLU",
            {
                "jumprelu_sparsity_loss_mode": "quadratic",
                "target_l0": job.k,
                "l0_coefficient": job.coefficient,
            },
        ),
        "relu": ("Standard", {"l1_coefficient": job.coefficient}),
        "gated": ("Gated", {"l1_coefficient": job.coefficient}),
    }
    if job.architecture not in kinds:
        raise AbsentError
    name, knobs = kinds[job.architecture]
    if job.tuned:
        knobs["normalize_activations"] = "expected_average_only_in"
    config = getattr(sae_lens, f"{name}TrainingSAEConfig")(
        d_in=x.shape[1], d_sae=job.n_latents, **knobs
    )
    sae = getattr(sae_lens, f"{name}TrainingSAE")(config)
    settings = SAETrainerConfig(
        total_training_samples=job.steps * job.batch,
        train_batch_size_samples=job.batch,
        lr=SAETrainerConfig.lr * job.multiple,
        lr_end=SAETrainerConfig.lr * job.multiple / 10,
        logger=LoggingConfig(log_to_wandb=False),
    )
    if job.tuned:
        settings.lr_decay_steps = job.share(DECAY)
        settings.dead_feature_window = job.share(DEAD)
    rows = (batch.x for batch in job.rows(x))
    trainer = SAETrainer(cfg=settings, sae=sae, data_provider=rows)
    if job.tuned:
        others = (batch.x for batch in job.rows(x))
        trainer.activation_scaler.estimate_scaling_factor(x.shape[1], others, 20)
    trainer.fit()
    with tempfile.TemporaryDirectory() as folder:
        sae.save_inference_model(folder)
        done = sae_lens.SAE.load_from_disk(folder)

    def set_threshold(value: float) -> None:
        done.threshold.data.fill_(value)

    return Coder(
        encode=done.encode,
        decode=done.decode,
        directions=done.W_dec.detach(),
        lr=settings.lr,
        set_threshold=set_threshold if job.architecture in THRESHOLDED else None,
    )


def _widths(n_latents: int) -> list[int]:
    """Prefixes as ours has them, which are the paper's."""
    parts = architectures()["matryoshka"].config_type.__dataclass_fields__["prefixes"].default
    return [round(part * n_latents) for part in parts]


class _Batches:
    """Batches from the start whenever one begins to read them: trainSAE reads twice."""

    def __init__(self, job: Job, x: Tensor) -> None:
        self._job, self._x = job, x

    def __iter__(self) -> Iterator[Tensor]:
        return (batch.x for batch in self._job.rows(self._x))


def _dictionary_learning(job: Job, x: Tensor) -> Coder:
    os.environ.setdefault("WANDB_MODE", "disabled")
    from dictionary_learning import dictionary
    from dictionary_learning.trainers import batch_top_k, gdm, jumprelu, p_anneal, standard, top_k
    from dictionary_learning.trainers import matryoshka_batch_top_k as matryoshka
    from dictionary_learning.training import trainSAE

    rise = job.share(WARM_UP)
    top = {"k": job.k, "threshold_start_step": rise}
    gentle = {"sparsity_warmup_steps": 2 * rise, "l1_penalty": 0.1 * job.coefficient}
    annealed = {
        "sparsity_warmup_steps": 2 * rise,
        "initial_sparsity_penalty": 0.1 * job.coefficient,
    }
    widths = _widths(job.n_latents)
    groups = [b - a for a, b in itertools.pairwise([0, *widths])]
    fractions = [group / job.n_latents for group in groups]
    rule = 2e-4 / (job.n_latents / 2**14) ** 0.5
    kinds: dict[str, tuple[Any, Any, dict[str, Any], float]] = {
        "topk": (top_k.TopKTrainer, top_k.AutoEncoderTopK, top, rule),
        "batch_topk": (batch_top_k.BatchTopKTrainer, batch_top_k.BatchTopKSAE, top, rule),
        "matryoshka": (
            matryoshka.MatryoshkaBatchTopKTrainer,
            matryoshka.MatryoshkaBatchTopKSAE,
            {**top, "group_fractions": fractions},
            rule,
        ),
        "jumprelu": (
            jumprelu.JumpReluTrainer,
            dictionary.JumpReluAutoEncoder,
            {"target_l0": float(job.k), "sparsity_warmup_steps": 2 * rise},
            7e-5,
        ),
        "relu": (standard.StandardTrainer, dictionary.AutoEncoder, gentle, 1e-3),
        "relu_april": (standard.StandardTrainerAprilUpdate, dictionary.AutoEncoder, gentle, 1e-3),
        "gated": (gdm.GatedSAETrainer, dictionary.GatedAutoEncoder, gentle, 5e-5),
        "p_anneal": (p_anneal.PAnnealTrainer, dictionary.AutoEncoder, annealed, 1e-3),
    }
    if job.architecture not in kinds:
        raise AbsentError
    trainer, kind, knobs, lr = kinds[job.architecture]
    if job.tuned:
        knobs = {**knobs, "decay_start": job.steps - job.share(DECAY)}
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
        "warmup_steps": rise,
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

    def set_threshold(value: float) -> None:
        done.threshold.fill_(value)

    return Coder(
        encode=done.encode,
        decode=done.decode,
        directions=_rows_of(done),
        lr=lr * job.multiple,
        set_threshold=set_threshold if job.architecture in THRESHOLDED else None,
    )


def _noticing_the_dead(trainer: Any, job: Job) -> Any:
    """The trainer, which otherwise calls a latent dead after ten million tokens, an attribute."""

    class Noticing(trainer):
        def __init__(self, *given: Any, **named: Any) -> None:
            super().__init__(*given, **named)
            self.dead_feature_threshold = round(DEAD * job.steps * job.batch)

    return Noticing


def _rows_of(done: Any) -> Tensor:
    return (done.W_dec if hasattr(done, "W_dec") else done.decoder.weight.T).detach()


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


def _sparsify(job: Job, x: Tensor) -> Coder:
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


LIBRARIES: dict[str, Callable[[Job, Tensor], Coder]] = {
    OURS: _monosem,
    "sae-lens": _sae_lens,
    "dictionary-learning": _dictionary_learning,
    "eai-sparsify": _sparsify,
}
