"""What loading takes of memory, beside the size of the files; only Linux says it."""

import ctypes
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

import monosem
from monosem.dictionaries.formats.archives import MULTIPLE
from monosem.dictionaries.formats.files import Files

CLEAR, STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")
SLACK = 24 * 2**20
"""Bytes that an allocator and buffers may take besides."""
D, F = 512, 8192

needs_linux = pytest.mark.skipif(not CLEAR.exists(), reason="only Linux says the peak of a read")


def peak() -> int:
    lines = STATUS.read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith("VmHWM")).split()[1])


def grown(work: Callable[[], Any]) -> int:
    """By how many bytes the resident memory grew at most while `work` ran."""
    ctypes.CDLL(None).malloc_trim(0)  # or it would be given what others have freed
    CLEAR.write_text("5")
    before = peak()
    kept = work()
    after = peak()
    del kept
    return after - before


@pytest.fixture(params=["half.safetensors", "whole.npz", "half.pt"])
def file(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A file of 8 or 32 MiB with rows of norms that are not 1, of another library."""
    dtype = torch.bfloat16 if request.param.startswith("half") else torch.float32
    g = torch.Generator().manual_seed(0)
    shapes = {"W_enc": (D, F), "W_dec": (F, D), "b_enc": (F,), "b_dec": (D,)}
    tensors = {name: torch.randn(*s, generator=g).to(dtype) for name, s in shapes.items()}
    path = tmp_path / request.param
    if path.suffix == ".npz":
        np.savez(path, **{name: tensor.numpy() for name, tensor in tensors.items()})
    elif path.suffix == ".pt":
        torch.save(tensors, path)
    else:
        safetensors.torch.save_file(tensors, path)
    return path


@needs_linux
def test_reading_takes_no_more_than_is_stated(file: Path) -> None:
    size = file.stat().st_size
    assert size > 2**23
    assert grown(lambda: Files.at(file).tensors(file.name)) <= MULTIPLE * size + SLACK


@needs_linux
def test_loading_takes_no_more_than_is_stated(file: Path) -> None:
    """16 bits a number become 32, and what is folded is computed in 64."""
    size = file.stat().st_size
    monosem.load(file)  # what is made once, and kept
    assert size / 2 < grown(lambda: monosem.load(file)) <= MULTIPLE * size


@needs_linux
def test_a_cross_layer_transcoder_takes_no_more_than_is_stated(tmp_path: Path) -> None:
    """Its file holds decoders for later layers alone, and the specification zeros for the others."""
    n_layers, d, n_latents = 8, 128, 1024
    for i in range(n_layers):
        encoder = {f"W_enc_{i}": (n_latents, d), f"b_enc_{i}": (n_latents,), f"b_dec_{i}": (d,)}
        own = {name: torch.randn(*s).bfloat16() for name, s in encoder.items()}
        safetensors.torch.save_file(own, tmp_path / f"W_enc_{i}.safetensors")
        rows = {f"W_dec_{i}": torch.randn(n_latents, n_layers - i, d).bfloat16()}
        safetensors.torch.save_file(rows, tmp_path / f"W_dec_{i}.safetensors")
    size = sum(path.stat().st_size for path in tmp_path.iterdir())
    monosem.load(tmp_path)
    assert grown(lambda: monosem.load(tmp_path)) <= 2 * MULTIPLE * size
