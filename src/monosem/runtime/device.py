"""Which device work runs on."""

import torch

from monosem.core.errors import ConfigError

NAMES = ("auto", "cpu", "cuda", "mps")


def resolve(name: str) -> torch.device:
    """Return the device that `name` means; `auto` takes CUDA, else MPS, else the CPU."""
    kind, numbered, number = name.partition(":")
    if kind not in NAMES or (numbered and (kind == "auto" or not number.isdecimal())):
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
    n_devices = torch.cuda.device_count() if kind == "cuda" else 1
    if numbered and int(number) >= n_devices:
        there = ", ".join(f"`{kind}:{i}`" for i in range(n_devices))
        raise ConfigError(
            f"There is no device `{name}`: this machine has {n_devices} of the kind `{kind}`. "
            f"Choose one of: {there}."
        )
    return torch.device(name)
