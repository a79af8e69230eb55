"""Foreign files are data: code in them is not run, lies in them cost nothing, damage is found."""

import io
import json
import os
import pickle
import resource
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from monosem.core.errors import (
    ArtifactCorruptError,
    ArtifactError,
    ArtifactKindError,
    ArtifactMissingError,
    MonosemError,
)
from monosem.dictionaries.formats import table
from monosem.dictionaries.formats.archives import MULTIPLE
from monosem.dictionaries.formats.build import dictionary_of
from monosem.dictionaries.formats.files import Files
from monosem.dictionaries.formats.specification import Axes, Specification

fuzzed = settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
WEIGHTS = {"W": torch.arange(12.0).reshape(3, 4), "b": torch.ones(5, dtype=torch.bfloat16)}


def written(path: Path, tensors: Any) -> Path:
    if path.suffix == ".safetensors":
        safetensors.torch.save_file(tensors, path)
    elif path.suffix == ".npz":
        np.savez(path, **{name: np.asarray(tensor) for name, tensor in tensors.items()})
    else:
        torch.save(tensors, path)
    return path


def read(path: Path) -> dict[str, torch.Tensor]:
    return Files.at(path).tensors(path.name)


@pytest.mark.parametrize("suffix", [".safetensors", ".npz", ".pt", ".pth"])
def test_tensors_come_back_bit_for_bit_in_their_own_types(suffix: str, tmp_path: Path) -> None:
    tensors = {
        "half": torch.randn(3, 2).half(),
        "double": torch.randn(4, 1, dtype=torch.float64),
        "k": torch.tensor(7),
    }
    if suffix != ".npz":  # numpy has no bfloat16
        tensors["b"] = WEIGHTS["b"]
    path = written(tmp_path / f"it{suffix}", tensors)
    found = read(path)
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor)
    assert Files.at(path).shapes(path.name) == {n: tuple(t.shape) for n, t in tensors.items()}
    assert Files.at(path).keys(path.name) == tensors.keys()


def test_arrays_by_columns_and_of_other_machines_are_read_as_they_are(tmp_path: Path) -> None:
    array = np.arange(6.0).reshape(2, 3)
    np.savez_compressed(tmp_path / "a.npz", f=np.asfortranarray(array), big=array.astype(">f4"))
    found = read(tmp_path / "a.npz")
    np.testing.assert_array_equal(found["f"], array)
    np.testing.assert_array_equal(found["big"], array)


def test_names_are_those_of_a_folder_and_its_folders(tmp_path: Path) -> None:
    for name in ("cfg.json", "a/b.json", "a/b/c.json", ".hidden"):
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).write_text("{}")
    assert Files.at(tmp_path).names == ("a/b.json", "cfg.json")
    one = Files.at(tmp_path / "a" / "b.json")
    assert (one.names, one.only, one.path) == (("b.json",), "b.json", tmp_path / "a")
    with pytest.raises(ArtifactMissingError, match="no file or folder"):
        Files.at(tmp_path / "x")
    with pytest.raises(ArtifactMissingError, match=r"no `\.\./secret`"):
        Files.at(tmp_path).json("../secret")


class Code:
    def __reduce__(self) -> Any:
        return os.mkdir, ("ran",)


def test_code_in_a_pickle_is_named_and_never_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"W": torch.ones(2), "code": Code()}, "code.pt")
    torch.save({"W": torch.nn.Linear(2, 2)}, "module.pt")
    for name, says in (("code.pt", "mkdir"), ("module.pt", "Linear")):
        with pytest.raises(ArtifactKindError, match=says):
            read(tmp_path / name)
    Path("bare.pt").write_bytes(pickle.dumps(Code()))
    with pytest.raises(ArtifactCorruptError, match="no archive"):
        read(tmp_path / "bare.pt")
    np.savez("objects.npz", a=np.array([Code()], dtype=object))
    with pytest.raises(ArtifactCorruptError, match="not of numbers"):
        read(tmp_path / "objects.npz")
    np.savez("long.npz", a=np.ones(2, dtype=np.longdouble))  # of which torch has no numbers
    with pytest.raises(ArtifactCorruptError, match="not of numbers"):
        read(tmp_path / "long.npz")
    assert not Path("ran").exists()


def bytearray_bomb(path: Path) -> None:
    """A pickle that asks for a terabyte of zeros."""
    torch.save({"W": torch.ones(2)}, path)
    with zipfile.ZipFile(path) as archive:
        members = {m.filename: archive.read(m) for m in archive.infolist()}
    name = next(name for name in members if name.endswith("data.pkl"))
    members[name] = (
        b"\x80\x02c__builtin__\nbytearray\n\x8a\x06" + struct.pack("<q", 2**40)[:6] + b"\x85R."
    )
    with zipfile.ZipFile(path, "w") as archive:
        for member, data in members.items():
            archive.writestr(member, data)


def lying_storage(path: Path) -> None:
    """A tensor of 2 GB in a file of 4 kB."""
    torch.save({"W": torch.ones(1000)}, path)
    with zipfile.ZipFile(path) as archive:
        members = {m.filename: archive.read(m) for m in archive.infolist()}
    with zipfile.ZipFile(path, "w") as archive:
        for member, data in members.items():
            if member.endswith("data.pkl"):
                data = data.replace(b"M\xe8\x03", b"J\x00\x00\x00\x20")
            archive.writestr(member, data)


def lying_header(path: Path) -> None:
    header = json.dumps(
        {"W": {"dtype": "F32", "shape": [2**32], "data_offsets": [0, 2**34]}}
    ).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + b"\0" * 64)


def endless_header(path: Path) -> None:
    path.write_bytes(struct.pack("<Q", 2**40) + b"{}" + b"\0" * 64)


def lying_array(path: Path) -> None:
    data = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        data, {"descr": "<f4", "fortran_order": False, "shape": (2**33,)}
    )
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("W.npy", data.getvalue() + b"\0" * 64)


def packed_zeros(path: Path) -> None:
    np.savez_compressed(path, W=np.zeros(2**24))


def packed_pt(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("it/data.pkl", b"\x80\x02}.")
        archive.writestr("it/data/0", b"\0" * 2**26)


BOMBS: dict[str, Callable[[Path], None]] = {
    "bytearray.pt": bytearray_bomb,
    "storage.pt": lying_storage,
    "expanded.pt": lambda path: torch.save({"W": torch.ones(1).expand(2**33)}, path),
    "shared.pt": lambda path: torch.save(
        {str(i): ones[: 9_999 - i] for ones in [torch.ones(10_000)] for i in range(4_000)}, path
    ),
    "packed.pt": packed_pt,
    "header.safetensors": lying_header,
    "endless.safetensors": endless_header,
    "array.npz": lying_array,
    "zeros.npz": packed_zeros,
}


@pytest.mark.parametrize("name", BOMBS)
def test_what_a_file_declares_beyond_its_size_is_never_allocated(name: str, tmp_path: Path) -> None:
    BOMBS[name](tmp_path / name)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises((ArtifactCorruptError, ArtifactKindError)) as caught:
        read(tmp_path / name)
    grown = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    assert grown < max(32 * 2**20, MULTIPLE * (tmp_path / name).stat().st_size)
    assert str(tmp_path / name) in str(caught.value)


def unfinished_array(path: Path) -> None:
    header = b"\x93NUMPY\x01\x00\x10\x00" + b"{'descr': (      "
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("W.npy", header)


def several_disks(path: Path) -> None:
    """An archive that says that it lies on two disks, as its last record but one."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("it/data.pkl", b"\x80\x02}.")
    content = path.read_bytes()
    locator = struct.pack("<4sLQL", b"PK\x06\x07", 0, 0, 2)
    path.write_bytes(content[:-22] + locator + content[-22:])


@pytest.mark.parametrize(("name", "make"), [("it.npz", unfinished_array), ("it.pt", several_disks)])
def test_what_pythons_own_parsers_raise_is_an_error_of_ours(
    name: str, make: Callable[[Path], None], tmp_path: Path
) -> None:
    make(tmp_path / name)  # both were found by fuzzing
    for ask in (read, lambda path: Files.at(path).keys(path.name)):
        with pytest.raises(ArtifactCorruptError, match="cannot be read"):
            ask(tmp_path / name)


@pytest.mark.parametrize("suffix", [".safetensors", ".npz", ".pt"])
def test_values_that_are_not_numbers_are_named(suffix: str, tmp_path: Path) -> None:
    for value in (torch.nan, torch.inf, -torch.inf):
        path = written(tmp_path / f"it{suffix}", {"W": torch.tensor([1.0, value, 2.0])})
        with pytest.raises(ArtifactCorruptError, match="`W` in .* not finite"):
            read(path)
        assert len(Files.at(path).tensors(path.name, finite=False)) == 1
    for tensor in (torch.ones(2, dtype=torch.complex64), torch.ones(2).to(torch.float8_e4m3fn)):
        if suffix == ".npz" and tensor.dtype != torch.complex64:
            continue
        path = written(tmp_path / f"it{suffix}", {"W": tensor})
        # torch keeps these in a `.pt` by ways that are not taken at all
        with pytest.raises(ArtifactError, match=r"(?i)complex|float8|_v3"):
            read(path)


def test_other_things_in_a_pt_are_only_in_its_contents(tmp_path: Path) -> None:
    nested = {"state_dict": {"W": torch.ones(2)}, "config": {"k": 3}, "name": "x"}
    torch.save(nested, tmp_path / "it.pt")
    found = Files.at(tmp_path).contents("it.pt")
    assert found["config"] == {"k": 3}
    assert torch.equal(found["state_dict"]["W"], torch.ones(2))
    with pytest.raises(ArtifactKindError, match="`config`, which is a `dict`"):
        Files.at(tmp_path).tensors("it.pt")


@pytest.mark.parametrize("suffix", [".safetensors", ".npz", ".pt"])
@given(data=st.data())
@fuzzed
def test_bytes_that_changed_are_an_error_of_ours_or_other_values(
    suffix: str, data: st.DataObject, tmp_path: Path
) -> None:
    path = written(tmp_path / f"it{suffix}", WEIGHTS if suffix != ".npz" else {"W": WEIGHTS["W"]})
    changed = mutated(path.read_bytes(), data)
    path.write_bytes(changed)
    for attempt in (read, lambda p: Files.at(p).shapes(p.name), lambda p: Files.at(p).keys(p.name)):
        try:
            attempt(path)
        except MonosemError as error:
            assert "`" in str(error)


def mutated(content: bytes, data: st.DataObject) -> bytes:
    """Some bytes of `content` flipped, or its end cut off, or bytes put in."""
    changed = bytearray(content)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, max(0, len(changed) - 1)))
        how = data.draw(st.sampled_from(["flip", "cut", "insert", "set"]))
        if how == "cut":
            del changed[at:]
        elif how == "insert":
            changed[at:at] = data.draw(st.binary(min_size=1, max_size=12))
        elif changed and at < len(changed):
            changed[at] = changed[at] ^ 1 << data.draw(st.integers(0, 7)) if how == "flip" else 255
    return bytes(changed)


D, F = 6, 10
WRITING = [format.name for format in table.FORMATS if format.write is not None]
values = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 2**70),
    st.floats(),
    st.text(max_size=8),
    st.lists(st.integers(0, 3), max_size=3),
    st.dictionaries(st.text(max_size=3), st.integers(0, 3), max_size=2),
)


@pytest.fixture(scope="module", params=[*WRITING, "openai", "plain"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small dictionary in each format."""
    path, g = tmp_path_factory.mktemp("fuzz"), torch.Generator().manual_seed(0)
    W_enc, W_dec = torch.randn(D, F, generator=g), torch.randn(F, D, generator=g)
    weights = {"W_enc": W_enc, "W_dec": W_dec, "b_enc": torch.ones(F), "b_dec": torch.ones(D)}
    if request.param == "openai":
        names = {"pre_bias": weights["b_dec"], "latent_bias": weights["b_enc"]}
        names |= {"encoder.weight": W_enc.T.contiguous(), "decoder.weight": W_dec.T.contiguous()}
        more = {"activation": "TopK", "activation_state_dict": {"k": 3, "postact_fn": "ReLU"}}
        torch.save(names | more, path / "3.pt")
        return path
    if request.param == "plain":
        torch.save(weights, path / "sae.pt")
        (path / "config.json").write_text('{"k": 3, "subtract_b_dec": true}')
        return path
    s = Specification(activation="topk", k=3, axes=Axes(subtract_b_dec=True), **weights)
    if request.param == "circuit_tracer":
        from monosem.dictionaries.formats.specification import Place
        from monosem.dictionaries.wiring import Wiring

        place = Place(model="m", site="blocks.0.hook_resid_mid", target="blocks.0.hook_mlp_out")
        axes, wiring = Axes(subtract_b_dec=False), Wiring(kind="transcoder")
        s = Specification(activation="topk", k=3, axes=axes, wiring=wiring, place=place, **weights)
    write = table.named(request.param).write
    assert write is not None
    if request.param == "monosem":
        path = path / "own"
    write(s, path)
    return path


def opened(path: Path) -> int:
    """Read whatever lies there into dictionaries, and return how many there are."""
    contents = table.read(path)
    many = [contents] if isinstance(contents, Specification) else list(contents.values())
    for s in many:
        dictionary_of(s)
    return len(many)


def test_each_sample_is_read(folder: Path) -> None:
    assert opened(folder) > 0


@given(data=st.data())
@fuzzed
def test_whatever_changes_in_a_folder_is_an_error_of_ours(
    data: st.DataObject, folder: Path
) -> None:
    # our own configurations are held to their hashes and names, and not to the types of all values
    ours = folder / "config.json" if folder.name == "own" else None
    names = sorted(p for p in folder.rglob("*") if p.is_file() and p != ours)
    path = data.draw(st.sampled_from(names))
    original = path.read_bytes()
    try:
        if path.suffix == ".json" and data.draw(st.booleans()):
            path.write_text(json.dumps(replaced(json.loads(original), data)), encoding="utf-8")
        else:
            path.write_bytes(mutated(original, data))
        try:
            opened(folder)
        except MonosemError as error:
            assert "`" in str(error)
    finally:
        path.write_bytes(original)


def replaced(config: Any, data: st.DataObject) -> Any:
    """One setting of a configuration, at any depth, gone or something else."""
    if not isinstance(config, dict) or not config or data.draw(st.integers(0, 3)) == 0:
        return data.draw(values)
    key = data.draw(st.sampled_from(sorted(config)))
    if data.draw(st.integers(0, 4)) == 0:
        return {name: value for name, value in config.items() if name != key}
    return config | {key: replaced(config[key], data)}
