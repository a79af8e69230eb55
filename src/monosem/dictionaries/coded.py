"""Coded: classical sparse coding. Each vector's latents solve a problem of their own; no encoder does.

    omp     greedy: k times take the atom with the largest |correlation| to what is left, then fit all
            taken ones by least squares (Pati et al. 1993)
    lasso   latents = argmin over c ≥ 0 of ½‖x - b_dec - c @ W_dec‖² + alpha Σ c   (alpha 0: NNLS, as NMF)

An atom of `omp` may count negatively, so it has two latents: row i of `W_dec` and, for the other sign,
row n/2 + i = its negative. That keeps latents non-negative, as everywhere else. Nothing is trained
here: `fitted.classical` and `fitted.nmf` find the atoms. Bricken et al. 2023 set such codes aside as more
powerful than what a model could compute itself, and so as liable to overfit.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import embedding_bag
from typing_extensions import override

from monosem.core.errors import ConfigError
from monosem.dictionaries.base import DictionaryConfig
from monosem.dictionaries.config import at_least
from monosem.dictionaries.geometry import directions
from monosem.dictionaries.latents import RaggedLatents, SparseLatents, ragged_from_dense
from monosem.dictionaries.untrained import Untrained

ENTRIES_AT_ONCE = 2**24
"""Correlations held at once: 64 MB."""
RELATIVE = 1e-5
"""`lasso` ends when no latent moves by more than this share of the largest."""
GREEDY_STEPS, LOOKS = 512, 16
"""Steps of one latent a vector, and how many pass between looks for vectors that are done."""
MOST_STEPS = 1_000
"""Steps of all latents, for vectors that are not done by then."""
RIDGE = 1e-9
"""Added to the diagonal of the least squares of `omp`, so that equal atoms do no harm."""


@dataclass(frozen=True, kw_only=True)
class CodedConfig(DictionaryConfig):
    """How codes are found."""

    codes: Literal["omp", "lasso"] = "omp"
    """Orthogonal matching pursuit with signs, or the non-negative LASSO."""
    k: int = 8
    """Atoms that `omp` takes for a vector."""
    alpha: float = 0.0
    """Weight of the L1 norm in `lasso`, in units of the activations; 0 is non-negative least squares."""
    atoms: str = "random"
    """Where the atoms come from; recorded."""

    def __post_init__(self) -> None:
        """Refuse what cannot be solved."""
        super().__post_init__()
        at_least("alpha", self.alpha, 0)
        if self.codes == "omp":
            if self.n_latents % 2:
                raise ConfigError(
                    f"`omp` has two latents for each atom, and `n_latents` is {self.n_latents}. Make it even."
                )
            most = min(self.n_latents // 2, self.d_in or self.n_latents)
            if not 1 <= self.k <= most:
                raise ConfigError(
                    f"`k` must be in 1..{most}, as many as there are atoms and dimensions, got {self.k}."
                )
        if self.wiring.kind != "sae":
            raise ConfigError(
                f"Codes reconstruct one site, not those of a `{self.wiring.kind}`. Use them at one site."
            )


class Coded(Untrained[CodedConfig], name="coded", config=CodedConfig):
    """Sparse codes over given atoms."""

    def __init__(self, config: CodedConfig) -> None:
        super().__init__(config)
        generator = torch.Generator().manual_seed(config.seed)
        signed = config.codes == "omp"
        n_atoms = self.n_latents // 2 if signed else self.n_latents
        atoms = directions(self.d_in, self.d_out, n_atoms, generator)[1]
        self.register_buffer("W_dec", torch.cat([atoms, -atoms]) if signed else atoms)
        self.register_buffer("b_dec", torch.zeros(self.d_out))
        self.register_buffer("b_enc", torch.zeros(self.n_latents), persistent=False)
        self.register_buffer("alpha", torch.tensor(float(config.alpha)))
        self._known: tuple[Tensor, float] | None = None

    @property
    def W_enc(  # noqa: N802  # pyright: ignore[reportIncompatibleVariableOverride]
        self,
    ) -> Float[Tensor, "d_in n_latents"]:
        """The atoms: what correlates with a latent, though no product with it is its value."""
        return self.W_dec.t()

    @torch.no_grad()
    def set_atoms_(self, atoms: Float[Tensor, "n_atoms d_in"]) -> None:
        """Take these rows, made unit vectors, as atoms."""
        norms = torch.linalg.vector_norm(atoms, dim=1, keepdim=True)
        if not (norms > 0).all() or not torch.isfinite(norms).all():
            raise ConfigError("An atom is zero or not finite. Leave such atoms out.")
        unit = atoms / norms
        self.W_dec.copy_(torch.cat([unit, -unit]) if self.config.codes == "omp" else unit)

    @override
    def encode(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch n_latents"]:
        """Codes of `x`, zeros included."""
        self.check_width(x)
        rows = x.reshape(-1, self.d_in)
        if self.config.codes == "omp":
            return self._pursued(rows).dense().reshape(*x.shape[:-1], self.n_latents)
        return self._solved(rows).reshape(*x.shape[:-1], self.n_latents)

    @override
    def encode_sparse(self, x: Float[Tensor, "batch d_in"]) -> SparseLatents | RaggedLatents:
        """Codes that are not zero."""
        self.check_width(x)
        return (
            self._pursued(x) if self.config.codes == "omp" else ragged_from_dense(self._solved(x))
        )

    @override
    def fold_(self, input_scale: float) -> None:
        """Atoms are unit vectors already: only centre and penalty have the scale of the data."""
        self.b_dec.mul_(input_scale)
        self.alpha.mul_(input_scale)

    def _pursued(self, x: Float[Tensor, "batch d_in"]) -> SparseLatents:
        atoms = self.W_dec[: self.n_latents // 2].float()
        step = max(1, ENTRIES_AT_ONCE // len(atoms))
        parts = [
            pursue(part.float() - self.b_dec.float(), atoms, self.config.k)
            for part in x.split(step)
        ] or [(x.new_zeros(0, self.config.k), x.new_zeros(0, self.config.k, dtype=torch.int64))]
        codes, chosen = (torch.cat(each) for each in zip(*parts, strict=True))
        indices = torch.where(codes < 0, chosen + len(atoms), chosen)
        return SparseLatents(codes.abs().to(x.dtype), indices.int(), self.n_latents)

    def _solved(self, x: Float[Tensor, "batch d_in"]) -> Float[Tensor, "batch n_latents"]:
        atoms, alpha = self.W_dec.float(), float(self.alpha)
        step = max(1, ENTRIES_AT_ONCE // self.n_latents)
        parts = [
            nonnegative_lasso(
                part.float() - self.b_dec.float(), atoms, alpha, lambda: self._steepest(atoms)
            )
            for part in x.split(step)
        ]
        return torch.cat(parts).to(x.dtype) if parts else x.new_zeros(0, self.n_latents)

    def _steepest(self, atoms: Float[Tensor, "n_atoms d_in"]) -> float:
        """Return `steepest` of the atoms, which is found once for as long as they are the same."""
        here = atoms.cpu()
        if self._known is None or not torch.equal(self._known[0], here):
            self._known = here.clone(), steepest(here)
        return self._known[1]


@torch.no_grad()
def pursue(
    x: Float[Tensor, "batch d_in"], atoms: Float[Tensor, "n_atoms d_in"], k: int
) -> tuple[Float[Tensor, "batch k"], Int[Tensor, "batch k"]]:
    """Return the codes of orthogonal matching pursuit over unit `atoms`, and which atoms they are of.

    Each row takes k different atoms; codes may be negative.
    """
    correlation = x @ atoms.t()
    gram = atoms @ atoms.t()
    left = correlation
    chosen = torch.zeros(len(x), 0, dtype=torch.int64, device=x.device)
    codes = x.new_zeros(len(x), 0)
    for n in range(1, k + 1):
        sizes = left.abs().scatter(1, chosen, -1.0)  # no atom twice
        chosen = torch.cat([chosen, sizes.argmax(1, keepdim=True)], 1)
        # in doubles: near atoms would amplify the rounding of their products
        inner = gram[chosen[:, :, None], chosen[:, None, :]].double()
        factor = torch.linalg.cholesky(inner + RIDGE * torch.eye(n, device=x.device))
        wanted = correlation.gather(1, chosen)[..., None].double()
        codes = torch.cholesky_solve(wanted, factor)[..., 0].to(x.dtype)
        if n < k:
            made = embedding_bag(chosen, atoms, mode="sum", per_sample_weights=codes)
            left = (x - made) @ atoms.t()
    return codes, chosen


@torch.no_grad()
def nonnegative_lasso(
    x: Float[Tensor, "batch d_in"],
    atoms: Float[Tensor, "n_atoms d_in"],
    alpha: float,
    curvature: Callable[[], float],
) -> Float[Tensor, "batch n_atoms"]:
    """Return argmin over c ≥ 0 of ½‖x - c @ atoms‖² + alpha Σ c, for unit `atoms`.

    Greedily first, which is soon done where few latents are on; what is not done then goes on from there by
    accelerated steps. Only these ask for the `curvature`, which is `steepest(atoms)`.
    """
    gram, wanted = atoms @ atoms.t(), x @ atoms.t() - alpha
    codes, rows = _greedy(gram, wanted)
    if len(rows):
        codes[rows] = _accelerated(gram, wanted[rows], codes[rows], curvature())
    return codes


@torch.no_grad()
def steepest(atoms: Float[Tensor, "n_atoms d_in"]) -> float:
    """Return the largest eigenvalue of `atoms @ atoms.t()`: how fast slopes can change along a step."""
    rows = atoms.cpu().double()  # where devices have no doubles
    least = rows.t() @ rows if len(rows) > rows.shape[1] else rows @ rows.t()
    return float(torch.linalg.eigvalsh(least)[-1])


def _greedy(
    gram: Float[Tensor, "n_atoms n_atoms"], wanted: Float[Tensor, "batch n_atoms"]
) -> tuple[Float[Tensor, "batch n_atoms"], Int[Tensor, " left"]]:
    """Return codes by coordinate descent on whichever latent gains most, and the rows still on the move."""
    done, rows = torch.zeros_like(wanted), torch.arange(len(wanted), device=wanted.device)
    codes, left = done.clone(), wanted.clone()
    for step in range(1, GREEDY_STEPS + 1):
        if not len(rows):
            break
        moves = (codes + left).relu() - codes
        sizes, latent = moves.abs().max(1, keepdim=True)
        move = moves.gather(1, latent)
        codes.scatter_add_(1, latent, move)
        left.sub_(move * gram[latent[:, 0]])
        if step % LOOKS == 0:
            moving = sizes[:, 0] > RELATIVE * codes.amax(1)
            done[rows] = codes
            rows, codes, left = rows[moving], codes[moving], left[moving]
    return done, rows


def _accelerated(
    gram: Float[Tensor, "n_atoms n_atoms"],
    wanted: Float[Tensor, "batch n_atoms"],
    codes: Float[Tensor, "batch n_atoms"],
    curvature: float,
) -> Float[Tensor, "batch n_atoms"]:
    """Return codes by FISTA with restarts where a step goes uphill (O'Donoghue and Candès 2015)."""
    rate = 1.0 / max(curvature, torch.finfo(gram.dtype).tiny)
    ahead, momentum = codes, 1.0
    for _ in range(MOST_STEPS):
        new = (ahead - rate * (ahead @ gram - wanted)).relu()
        moved = new - codes
        uphill = ((ahead - new) * moved).sum(1, keepdim=True) > 0
        later = (1 + (1 + 4 * momentum * momentum) ** 0.5) / 2
        ahead = torch.where(uphill, new, new + (momentum - 1) / later * moved)
        codes, momentum = new, later
        if moved.abs().amax() <= RELATIVE * codes.amax():
            break
    return codes
