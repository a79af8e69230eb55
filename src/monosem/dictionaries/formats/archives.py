"""Zip archives of tensors, `.npz` and `.pt`, read as data: nothing in them is executed.

What an archive declares is held against the file before anything is read, so that one that lies costs
no memory: all members together, unpacked, may be `MULTIPLE` times as large as the file (a `.pt` of
torch is not compressed: once), and so may all tensors, several of which may look at the same bytes.
Every member has a checksum, so that a bit that has changed is found.

A `.pt` is a pickle, which can name any function to be called. Those that rebuild tensors are all that
may be named; whatever else is named is refused before it is looked up, and what remains is read by
`torch.load(weights_only=True)`.
"""

import pickle
import pickletools
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from monosem.core.errors import ArtifactCorruptError, ArtifactError, ArtifactKindError

MULTIPLE = 8
"""How many times its file's size the tensors of a file may take."""
PICKLE_LIMIT = 16 * 2**20
"""Bytes of the pickle of a `.pt`, without its tensors."""
HEADER_LIMIT = 10_000
PIECE = 2**24
NODES = 100_000

# what Python's and torch's parsers raise on bytes that no program wrote
BROKEN = (
    *(zipfile.BadZipFile, zlib.error, struct.error, pickle.UnpicklingError, EOFError, MemoryError),
    *(ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RuntimeError, OSError),
    *(AssertionError, SyntaxError, tokenize.TokenError),
)
_STORAGES = ("Float", "Half", "BFloat16", "Double", "Long", "Int", "Short", "Char", "Byte", "Bool")
_DTYPES = ("float32", "float16", "bfloat16", "float64", "int64", "int32")
SAFE = {
    "collections OrderedDict",
    "torch._utils _rebuild_tensor_v2",
    "torch._utils _rebuild_parameter",
    "torch Size",
    "torch device",
    *(f"torch {name}Storage" for name in _STORAGES),
    *(f"torch {name}" for name in _DTYPES),
}
"""What a pickle may name: each only makes a tensor, or says of what kind one is."""


def read_npz(path: Path) -> dict[str, Tensor]:
    """The arrays of a `.npz`, or of a single `.npy` inside one, by name."""
    found = _npz(path, _array)
    return {name: torch.from_numpy(array) for name, array in found.items()}


def npz_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Shapes of the arrays of a `.npz`."""
    return _npz(path, lambda stream, size: _declared(stream, size)[0])


def read_pt(path: Path) -> dict[str, Any]:
    """What a `.pt` holds, checksums verified; tensors are copied out of the file."""
    return cast(dict[str, Any], _Copies(path).of(_loaded(path, checksums=True)))


def pt_outline(path: Path) -> dict[str, Any]:
    """The same with tensors that are not read before they are looked at."""
    return _loaded(path, checksums=False)


def _npz(path: Path, read: Callable[[zipfile.ZipExtFile, int], Any]) -> dict[str, Any]:
    try:
        with zipfile.ZipFile(path) as archive:
            _check_sizes(path, archive, MULTIPLE)
            found: dict[str, Any] = {}
            for member in archive.infolist():
                with archive.open(member) as stream:
                    found[member.filename.removesuffix(".npy")] = read(
                        cast(zipfile.ZipExtFile, stream), member.file_size
                    )
            return found
    except ArtifactError:
        raise
    except BROKEN as error:
        raise _broken(path, error) from error


def _declared(stream: zipfile.ZipExtFile, size: int) -> tuple[tuple[int, ...], bool, Any]:
    """Shape, order and type of an array, which must make `size` bytes with its header."""
    version = np.lib.format.read_magic(stream)
    readers = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    shape, by_columns, dtype = readers[version](stream, max_header_size=HEADER_LIMIT)
    if (
        dtype.hasobject or dtype.kind not in "fiu" or dtype.itemsize > 8
    ):  # torch has none of 16 bytes
        raise ValueError(f"an array of type `{dtype}`, which is not of numbers")
    if any(length < 0 for length in shape):
        raise ValueError(f"an array of shape {shape}")
    count = 1
    for length in shape:  # in integers of any size, which do not wrap around
        count *= length
    if count * dtype.itemsize != size - stream.tell():
        raise ValueError(f"an array of shape {shape} in {size:,} bytes")
    return tuple(shape), by_columns, dtype


def _array(stream: zipfile.ZipExtFile, size: int) -> Any:
    shape, by_columns, dtype = _declared(stream, size)
    data = bytearray()
    while piece := stream.read(PIECE):
        data += piece
    flat = np.frombuffer(data, dtype)
    native = flat if dtype.isnative else flat.astype(dtype.newbyteorder("="))
    return native.reshape(shape, order="F" if by_columns else "C")


def _loaded(path: Path, *, checksums: bool) -> dict[str, Any]:
    try:
        if not zipfile.is_zipfile(path):
            raise ArtifactCorruptError(
                f"`{path}` is no archive as `torch.save` has written since 2020: it is truncated, or of an "
                "older version. Fetch it again, or write it again with a newer torch."
            )
        with zipfile.ZipFile(path) as archive:
            if any(member.compress_type != zipfile.ZIP_STORED for member in archive.infolist()):
                raise ValueError("compressed members, which torch does not write")
            _check_sizes(path, archive, 1)
            _check_names(path, _pickle_of(archive))
            bad = archive.testzip() if checksums else None
            if bad is not None:
                raise ValueError(f"a wrong checksum of `{bad}`")
        # mapped, so that what is declared can be checked before it is read
        found = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except ArtifactError:
        raise
    except BROKEN as error:
        raise _broken(path, error) from error
    if isinstance(found, Mapping):
        entries = cast(Mapping[Any, Any], found)
        if all(isinstance(key, str) for key in entries):
            return dict(cast(Mapping[str, Any], entries))
    raise ArtifactKindError(
        f"`{path}` holds a `{type(found).__name__}`, not tensors by name. Save the `state_dict()` of the "
        "dictionary instead."
    )


def _pickle_of(archive: zipfile.ZipFile) -> bytes:
    names = [m for m in archive.infolist() if m.filename.rpartition("/")[2] == "data.pkl"]
    if len(names) != 1 or names[0].file_size > PICKLE_LIMIT:
        raise ValueError(f"{len(names)} pickles, or one of more than {PICKLE_LIMIT:,} bytes")
    return archive.read(names[0])


def _check_names(path: Path, data: bytes) -> None:
    """Raise `ArtifactKindError` if the pickle names anything that does not make a tensor."""
    for operation, argument, _ in pickletools.genops(data):
        name = str(argument) if operation.name in ("GLOBAL", "INST") else ""
        if operation.name == "STACK_GLOBAL":  # its name is not known before it runs
            name = "a name made while it is read"
        if name and name not in SAFE:
            raise ArtifactKindError(
                f"`{path}` is a pickle that asks for `{name.replace(' ', '.')}`: code, or objects of a "
                "library, which are never run or built here. Ask its author for the `state_dict()` alone, "
                "best as safetensors."
            )


def _check_sizes(path: Path, archive: zipfile.ZipFile, multiple: int) -> None:
    declared, size = sum(member.file_size for member in archive.infolist()), path.stat().st_size
    if declared > multiple * size:
        raise ArtifactCorruptError(
            f"`{path}` has {size:,} bytes and declares {declared:,} unpacked; {multiple} times its size is "
            "the most that is read. It is damaged, or made to fill the memory; fetch it from its author."
        )


class _Copies:
    """Copies of what a `.pt` holds, with a limit to what they take together."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._left = MULTIPLE * path.stat().st_size
        self._nodes = NODES

    def of(self, value: Any, depth: int = 0) -> Any:
        """The same value with tensors in memory of their own."""
        self._nodes -= 1
        if self._nodes < 0 or depth > 8:  # shared parts may look like far more than the file is
            raise ArtifactCorruptError(
                f"`{self._path}` nests more than 8 levels, or more than {NODES:,} entries. Save the "
                "`state_dict()` of the dictionary alone."
            )
        if isinstance(value, Tensor):
            return self._tensor(value)
        if isinstance(value, Mapping):
            entries = cast(Mapping[Any, Any], value)
            return {key: self.of(inner, depth + 1) for key, inner in entries.items()}
        if isinstance(value, (list, tuple)):
            return [self.of(inner, depth + 1) for inner in cast(list[Any], value)]
        return value

    def _tensor(self, tensor: Tensor) -> Tensor:
        needed = tensor.numel() * tensor.element_size()
        self._left -= needed
        if self._left < 0:
            raise ArtifactCorruptError(
                f"`{self._path}` declares tensors of more than {MULTIPLE} times its size. It is damaged, "
                "or made to fill the memory; fetch it from its author."
            )
        return tensor.detach().clone(memory_format=torch.contiguous_format)


def _broken(path: Path, error: BaseException) -> ArtifactCorruptError:
    what = str(error).partition("\n")[0][:200] or type(error).__name__
    return ArtifactCorruptError(
        f"`{path}` cannot be read ({what}): it is truncated or altered. Fetch it again."
    )
