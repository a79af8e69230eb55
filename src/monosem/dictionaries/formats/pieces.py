"""What readers ask of a file's tensors and settings, refused in one voice where it is not there."""

from collections.abc import Collection, Mapping
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

from monosem.core.errors import ArtifactCorruptError, ArtifactKindError

V = TypeVar("V")
Shape = tuple[int | None, ...]
_MOST = (
    2**63
)  # whole numbers beyond are nobody's setting, and not every one is a float, or can be shown


class Pieces:
    """The tensors of one file, taken by name and shape."""

    def __init__(self, tensors: Mapping[str, Any], layout: str) -> None:
        self.tensors = tensors
        self.layout = layout

    def __contains__(self, name: str) -> bool:
        return name in self.tensors

    def take(self, name: str, *shape: int | None) -> Tensor:
        """The tensor `name` of this shape, where None is any length, in the dtype of its file."""
        found = self._found(name)
        fits = _fits(tuple(found.shape), shape) and found.numel() > 0
        if not fits or not found.is_floating_point():
            raise ArtifactCorruptError(
                f"`{name}` is {found.dtype} {list(found.shape)}; in the layout `{self.layout}` it must be "
                f"of floating point and {_shown(shape)}. The file is of another layout, or damaged; fetch "
                "it again."
            )
        return found

    def take_or_zeros(self, name: str, like: Tensor, *shape: int) -> Tensor:
        """The tensor `name`, or zeros of this shape where the file has none."""
        return self.take(name, *shape) if name in self else like.new_zeros(shape)

    def number(self, name: str) -> float:
        """The one number that `name` holds."""
        found = self._found(name)
        if found.numel() != 1 or not bool(found.isfinite()):
            raise ArtifactCorruptError(
                f"`{name}` is of shape {list(found.shape)}; it must hold one number that is finite. Fetch "
                "the file again."
            )
        return float(found.item())

    def only(self, *names: str) -> None:
        """Raise `ArtifactCorruptError` where the file holds a tensor that none of `names` is."""
        extra = sorted(set(self.tensors) - set(names))
        if extra:
            raise ArtifactCorruptError(
                f"The file holds {listed(extra)}, which `{self.layout}` has no use for: it holds "
                f"{listed(names)}. It is of another kind; correct the kind that its configuration names."
            )

    def _found(self, name: str) -> Tensor:
        found = self.tensors.get(name)
        if not isinstance(found, Tensor):
            raise ArtifactCorruptError(
                f"There is no tensor `{name}` in the file, which holds {listed(self.tensors)}; "
                f"`{self.layout}` needs it. Fetch the file again, or choose another format."
            )
        return found


def setting(config: Mapping[str, Any], path: str, kind: type[V], default: V | None = None) -> V:
    """The setting at `path` (keys joined by dots) of type `kind`; `default` where it is not there."""
    found: Any = config
    for key in path.split("."):
        inner = cast(Mapping[str, Any], found) if isinstance(found, Mapping) else {}
        found = inner.get(key)
    if found is None and default is not None:
        return default
    if isinstance(found, int) and abs(found) >= _MOST:
        found = f"a whole number of {found.bit_length():,} bits"
    elif kind is float and isinstance(found, int) and not isinstance(found, bool):
        found = float(found)
    if not isinstance(found, kind) or (kind is int and isinstance(found, bool)):
        what = "is missing" if found is None else f"is {found!r}"
        raise ArtifactCorruptError(
            f"`{path}` {what} in the configuration; it must be of type `{kind.__name__}`. Correct it "
            "there, or fetch the configuration again."
        )
    return found


def agree(what: str, stated: int, found: int, tensor: str) -> None:
    """Raise `ArtifactCorruptError` where the configuration contradicts a tensor."""
    if stated != found:
        raise ArtifactCorruptError(
            f"The configuration says `{what}` is {stated}, but `{tensor}` makes it {found}. They are of "
            "different dictionaries; fetch both again."
        )


def unsupported(layout: str, what: str, why: str, instead: str) -> ArtifactKindError:
    """Return (not raise) the error for a kind that no dictionary here can compute."""
    return ArtifactKindError(f"`{what}` of `{layout}` cannot be read: {why}. {instead}")


def listed(names: Collection[str]) -> str:
    """Names for a message, at most twelve.

    >>> listed(["W_enc", "b_enc"])
    '`W_enc`, `b_enc`'
    """
    shown = [f"`{name}`" for name in sorted(names)[:12]]
    return ", ".join(shown) + (", …" if len(names) > 12 else "") if shown else "nothing"


def filled(value: float, like: Tensor) -> Tensor:
    """One value for each latent, in the dtype of `like` but at least float32."""
    dtype = torch.promote_types(like.dtype, torch.float32)
    return torch.full((like.shape[0],), value, dtype=dtype, device=like.device)


def _fits(found: tuple[int, ...], wanted: Shape) -> bool:
    pairs = zip(found, wanted, strict=False)
    return len(found) == len(wanted) and all(w is None or f == w for f, w in pairs)


def _shown(shape: Shape) -> str:
    return "[" + ", ".join("any" if length is None else str(length) for length in shape) + "]"
