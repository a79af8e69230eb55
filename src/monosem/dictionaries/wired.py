"""Wired: what any dictionary knows of the columns and sites it reads and writes (wiring.py)."""

from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from monosem.core.errors import ConfigError
from monosem.dictionaries.config import DictionaryConfig, above_zero
from monosem.dictionaries.saving import Origin
from monosem.dictionaries.wiring import Wiring, per_column
from monosem.kernels.dense import product
from monosem.kernels.layers import assembled, latents_of
from monosem.kernels.parts import spans

C = TypeVar("C", bound=DictionaryConfig)


@dataclass(frozen=True, kw_only=True)
class Conventions:
    """What a dictionary's numbers mean; recorded with it, so that nobody has to guess."""

    loss_scale: str
    """What the reconstruction term of the loss is averaged over and divided by."""
    input_scale: float = 1.0
    """What raw activations were divided by in training; 1 if they were not."""
    subtract_b_dec: bool = True
    """Whether `b_dec` is subtracted from the input before the encoder."""
    select_by_decoder_norm: bool = False
    """Whether latents are chosen by activation times norm of their decoder row."""
    folded: bool = False
    """Whether it reads raw activations with unit-norm decoder rows."""
    unit_rows: bool = True
    """Whether folding makes decoder rows unit vectors. Of a TopK that was trained with others that would
    change which latents are chosen: there they stay what they are."""
    input_scales: tuple[float, ...] = ()
    """What each site that is read was divided by, where that is not `input_scale`."""
    output_scales: tuple[float, ...] = ()
    """What each site that is written was divided by, where that is not `input_scale`."""

    def __post_init__(self) -> None:
        """Refuse scales that cannot be."""
        for scale in (self.input_scale, *self.input_scales, *self.output_scales):
            above_zero("input_scale", scale)


class Wired(nn.Module, Generic[C]):
    """Widths, sites and the parts of the weights that belong to them; `base.Dictionary` is one."""

    config: C
    conventions: Conventions
    origin: Origin

    W_enc: Float[Tensor, "d_read n_latents"]
    W_dec: Float[Tensor, "n_latents d_out"]
    W_skip: Float[Tensor, "d_in d_out"]
    b_dec: Float[Tensor, " d_out"]

    def __getattr__(self, name: str) -> Any:
        """`W_dec` of a CLT, which is made anew each time: what is written to it is lost; else `nn`'s own."""
        if name == "W_dec" and "W_dec_0" in self._parameters:
            return assembled(self.decoders)
        return super().__getattr__(name)

    @property
    def decoders(self) -> tuple[Float[Tensor, "n_each d_written"], ...]:
        """`W_dec`; in a CLT `W_dec_0`, `W_dec_1`, …: rows of each layer, over the columns it writes."""
        if "W_dec_0" not in self._parameters:
            return (self.W_dec,)
        return tuple(getattr(self, f"W_dec_{layer}") for layer in range(self.wiring.n_layers))

    def keep_decoder_(self, W_dec: Float[Tensor, "n_latents d_out"]) -> None:
        """Make these rows parameters; in a CLT what each layer writes, in the length of the whole row."""
        if self.wiring.n_layers == 1:
            self.W_dec = nn.Parameter(W_dec)
            return
        for layer, (latents, columns) in enumerate(self.wiring.written(W_dec.shape)):
            rows = W_dec[latents, columns].clone()
            left = torch.linalg.vector_norm(rows, dim=1).clamp_min(torch.finfo(rows.dtype).tiny)
            rows.mul_((torch.linalg.vector_norm(W_dec[latents], dim=1) / left)[:, None])
            self.register_parameter(f"W_dec_{layer}", nn.Parameter(rows))

    @torch.no_grad()
    def set_decoder_(self, W_dec: Float[Tensor, "n_latents d_out"]) -> None:
        """Copy rows from `W_dec`; in a CLT what its layers write of it, the rest must be zero."""
        for (latents, columns), rows in zip(
            self.wiring.written(W_dec.shape), self.decoders, strict=True
        ):
            if W_dec[latents, : columns.start].any():
                raise ConfigError(
                    "`W_dec` writes sites of earlier layers, and a cross-layer transcoder has no such "
                    "weights. Set them to zero, or use a transcoder."
                )
            rows.copy_(W_dec[latents, columns])

    def row_norms(self) -> Float[Tensor, " n_latents"]:
        """Norm of each decoder row."""
        return torch.cat([torch.linalg.vector_norm(rows, dim=1) for rows in self.decoders])

    @torch.no_grad()
    def divide_rows_(self, by: Float[Tensor, " n_latents"]) -> None:
        """Divide each decoder row."""
        for latents, rows in zip(latents_of(self.decoders), self.decoders, strict=True):
            rows.div_(by[latents, None])

    @property
    def d_in(self) -> int:
        """Width of the activations it reads."""
        return self.config.d_in

    @property
    def d_read(self) -> int:
        """Width of what one latent reads, the rows of `W_enc`: in a CLT one site, else all of `d_in`."""
        return self.config.d_in // self.wiring.n_layers

    @property
    def d_out(self) -> int:
        """Width of what it reconstructs."""
        return self.config.d_out

    @property
    def n_latents(self) -> int:
        """Number of latents."""
        return self.config.n_latents

    @property
    def wiring(self) -> Wiring:
        """Which sites it reads and writes."""
        return self.config.wiring

    @property
    def writes_what_it_reads(self) -> bool:
        """Whether input and output are the same space."""
        return self.wiring.autoencodes and self.config.d_in == self.config.d_out

    @property
    def site(self) -> str:
        """Site it was trained to read, or an empty string; several are joined by a comma and a space."""
        return self.origin.site

    @property
    def sites_in(self) -> tuple[str, ...]:
        """The sites it reads, in the order of its columns."""
        return tuple(self.origin.site.split(", ")) if self.origin.site else ()

    @property
    def sites_out(self) -> tuple[str, ...]:
        """The sites it writes, in the order of its columns."""
        return tuple(self.origin.target.split(", ")) if self.origin.target else self.sites_in

    def encoder(self) -> Float[Tensor, "d_in n_latents"]:
        """`W_enc` over all columns of the input, with zeros where a latent of a CLT does not read."""
        if self.d_read == self.d_in:
            return self.W_enc
        whole = self.W_enc.new_zeros(self.d_in, self.n_latents)
        for latents, columns in spans(self.d_in, self.W_enc):
            whole[columns, latents] = self.W_enc[:, latents]
        return whole

    def read_by(
        self, latents: Int64[Tensor, " n"], x: Float[Tensor, "n d_in"]
    ) -> Float[Tensor, "n d_read"]:
        """Of each row of `x` what the latent of the same place reads."""
        layers = latents // (self.n_latents // self.wiring.n_layers)
        parts = x.unflatten(1, (self.wiring.n_layers, self.d_read))
        return parts[torch.arange(len(x), device=x.device), layers]

    def effect(
        self, x: Float[Tensor, "*batch d_in"], change: Float[Tensor, "*batch n_latents"]
    ) -> Float[Tensor, "*batch d_out"]:
        """What a change of latents of `x` adds to the reconstruction."""
        assert x.shape[:-1] == change.shape[:-1]
        return change @ self.W_dec

    def rows_by_site(self) -> tuple[Float[Tensor, "n_latents d_site"], ...]:
        """The decoder rows of each site that it writes."""
        W_dec = self.W_dec
        return tuple(W_dec[:, columns] for columns in self.wiring.columns_out(self.d_out))

    def site_shares(self) -> Float[Tensor, "n_latents n_sites"]:
        """Norm of each latent's decoder row at each site, over the sum of them.

        In units of the sites' scales, so that a loud site does not count for more. For two sites it is
        what model diffing looks at: near 0 or 1 for latents of one of them, near 1/2 for shared ones.
        """
        by_site = self.rows_by_site()
        scales = self.conventions.output_scales or (1.0,) * len(by_site)
        norms = [
            torch.linalg.vector_norm(rows, dim=1) / scale
            for rows, scale in zip(by_site, scales, strict=True)
        ]
        found = torch.stack(norms, 1)
        return found / found.sum(1, keepdim=True).clamp_min(torch.finfo(found.dtype).tiny)

    def left_to_latents(
        self, x: Float[Tensor, "batch d_in"], target: Float[Tensor, "batch d_out"]
    ) -> Float[Tensor, "batch d_out"]:
        """What the skip leaves of the target, or the target where there is none."""
        return target - product(x, self.W_skip).to(x.dtype) if self.wiring.skip else target

    def stretch_(self, inputs: tuple[float, ...], outputs: tuple[float, ...]) -> None:
        """Read and write each site's columns times its factor, with the same latents as before."""
        device = self.b_dec.device
        of_in = per_column(inputs, self.wiring.columns_in(self.d_in)).to(device)
        of_out = per_column(outputs, self.wiring.columns_out(self.d_out)).to(device)
        for latents, columns in spans(self.d_in, self.W_enc):
            self.W_enc[:, latents].div_(of_in[columns, None])
        for rows in self.decoders:
            rows.mul_(of_out[-rows.shape[1] :])
        self.b_dec.mul_(of_out)
        if self.wiring.skip:
            self.W_skip.mul_(of_out).div_(of_in[:, None])
