"""Which device work runs on."""

import torch

from monosem.core.errors import ConfigError

NAMES = ("auto", "cpu", "cuda", "mps")


def resolve(name: str) -> torch.device:
    """Return the device that `name` means; `auto` takes CUDA, else MPS, else the CPU."""
    kind = name.partition(":")[0]
    if kind not in NAMES:
        raise ConfigError(f"Unknown device `{name}`. Choose one of: {', '.join(NAMES)}, `cuda:1`.")
    present = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if kind == "auto":
        return torch.device(next(k for k, there in present.items() if there))
    if not present[kind]:
        raise ConfigError(f"This machine has no `{kind}` device. Use `--device auto` or `cpu`.")
    return torch.device(name)
