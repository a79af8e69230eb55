"""The sums of heads we use for each activation function: exact where there are such, else fitted.

Exact with one head: SiLU, quick GELU (generalised SiLUs), sigmoid, tanh. ReLU by one head with gain
β errs by 0.27846/β, wherever the gain is not too large for the number type. The two GELUs by one
to four heads come from `fitting.py` (terms of modest size: no cancellation worth speaking of);
every error below is certified anew by the tests.
"""

from dataclasses import dataclass

from monosem.constructions.fitting import FitConfig, fit
from monosem.constructions.functions import function
from monosem.constructions.terms import EXACT, SILU_DIP, HeadSum, Term, scaled_silu
from monosem.core.errors import ConfigError

RELU_GAIN = 2.0**20
"""β of ReLU's head unless another is asked for: an error of 2.7e-7, below float32's own."""


@dataclass(frozen=True, kw_only=True)
class Approximation:
    """A sum of heads and a bound on its distance from the function on the whole line."""

    heads: HeadSum
    """The sum."""
    error: float
    """The bound; 0 where the sum is the function."""


def _paired(middle: float, *pairs: tuple[float, float, float, float]) -> tuple[Term, ...]:
    """Return terms symmetric under x → −x up to the line x, their slopes adding to exactly 1."""
    terms = [
        Term(slope=slope, offset=sign * offset, gain=gain, shift=sign * shift)
        for slope, offset, gain, shift in pairs
        for sign in (1, -1)
    ]
    rest = 1.0 - sum(t.slope for t in terms)
    return (Term(slope=rest, gain=middle), *terms) if middle else tuple(terms)


FITTED: dict[tuple[str, int], Approximation] = {
    ("gelu", 1): Approximation(
        heads=HeadSum(terms=(Term(slope=1.0, gain=1.772888),)), error=1.394e-2
    ),
    ("gelu", 2): Approximation(
        heads=HeadSum(terms=_paired(0.0, (0.5, 0.00632861, 2.24205771, 1.37806267))), error=3.857e-3
    ),
    ("gelu", 3): Approximation(
        heads=HeadSum(
            terms=(
                Term(
                    slope=-0.18138014614617,
                    offset=-0.07249422755003,
                    gain=1.38933153164498,
                    shift=2.30271003457128,
                ),
                Term(
                    slope=-0.13423364603980,
                    offset=-0.07467572281048,
                    gain=1.35480439967667,
                    shift=-2.37559458111711,
                ),
                Term(
                    slope=1.31561379218597,
                    offset=0.14716995036051,
                    gain=1.32283751498086,
                    shift=-0.04273614203505,
                ),
            )
        ),
        error=2.48e-4,
    ),
    ("gelu", 4): Approximation(
        heads=HeadSum(
            terms=(
                Term(
                    slope=-0.1750242316068,
                    offset=0.1218333633663,
                    gain=1.4864912012871,
                    shift=-2.4691136181125,
                ),
                Term(
                    slope=-0.1768455314785,
                    offset=-0.2549469271741,
                    gain=1.5562782918563,
                    shift=2.5118795284653,
                ),
                Term(
                    slope=1.1288512084528,
                    offset=2.8517939043935,
                    gain=1.4583050767851,
                    shift=-0.2421452455138,
                ),
                Term(
                    slope=0.2230185546325,
                    offset=-2.7186803405857,
                    gain=1.4291341739809,
                    shift=-0.4977343412911,
                ),
            )
        ),
        error=7.30e-5,
    ),
    ("gelu_tanh", 1): Approximation(
        heads=HeadSum(terms=(Term(slope=1.0, gain=1.774432),)), error=1.425e-2
    ),
    ("gelu_tanh", 2): Approximation(
        heads=HeadSum(terms=_paired(0.0, (0.5, 0.00665133, 2.25272448, 1.3962011))), error=4.165e-3
    ),
    ("gelu_tanh", 3): Approximation(
        heads=HeadSum(
            terms=_paired(1.339061930, (-0.14140752, -0.0002374, 1.39209571, 2.44867627))
        ),
        error=2.035e-4,
    ),
    ("gelu_tanh", 4): Approximation(
        heads=HeadSum(
            terms=(
                Term(
                    slope=-0.1328384320369,
                    offset=-0.1006337586481,
                    gain=1.5191825687900,
                    shift=2.6965401379989,
                ),
                Term(
                    slope=0.6403353949369,
                    offset=-1.7909240611314,
                    gain=1.4486492431777,
                    shift=-0.1009910392939,
                ),
                Term(
                    slope=0.6251303889301,
                    offset=1.7926153100986,
                    gain=1.4507594781692,
                    shift=0.0936005929463,
                ),
                Term(
                    slope=-0.1326273518301,
                    offset=0.0989425096809,
                    gain=1.5181727287959,
                    shift=-2.6957374124441,
                ),
            )
        ),
        error=8.09e-5,
    ),
}
"""By function and number of heads; each error is certified anew by the tests and by the study."""


def approximation(name: str, n_heads: int = 3, *, gain: float = RELU_GAIN) -> Approximation:
    """Return the sum for the activation function that `transformers` calls `name`.

    At most `n_heads` heads for each neuron are used; `gain` is that of ReLU's one head. A function
    without stored constants is fitted, with three heads at most, which takes seconds.
    """
    known = function(name)
    if n_heads < 1:
        raise ConfigError(f"`n_heads` must be at least 1, got {n_heads}.")
    if known.name in EXACT:
        return Approximation(heads=EXACT[known.name], error=0.0)
    if known.name == "relu":
        if not gain > 0:
            raise ConfigError(f"`gain` must be positive, got {gain}.")
        heads = HeadSum(terms=(scaled_silu(1 / gain, gain),))
        return Approximation(heads=heads, error=SILU_DIP / gain)
    stored = [n for kind, n in FITTED if kind == known.name and n <= n_heads]
    if stored:
        return FITTED[known.name, max(stored)]
    found = fit(known, FitConfig(n_heads=min(n_heads, 3)))
    return Approximation(heads=found.heads, error=found.certificate.everywhere)
