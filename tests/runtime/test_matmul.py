import pytest
import torch

from monosem.core.errors import ConfigError
from monosem.runtime import matmul

needs_int8 = pytest.mark.skipif(not matmul.has_int8(), reason="8-bit sums are not exact here")


def test_outside_of_a_scope_the_policy_is_fp32_and_torch_is_untouched():
    before = torch.backends.mkldnn.matmul.fp32_precision
    assert matmul.current() == "fp32"
    with matmul.scope("onednn"):
        assert matmul.current() == "onednn"
        assert torch.backends.mkldnn.matmul.fp32_precision == "bf16"
        with matmul.scope("bf16"):
            assert matmul.current() == "bf16"
            assert torch.backends.mkldnn.matmul.fp32_precision == "ieee"
        assert matmul.current() == "onednn"
    assert matmul.current() == "fp32"
    assert torch.backends.mkldnn.matmul.fp32_precision == before


def test_a_scope_that_raises_restores_what_was_there():
    before = torch.backends.mkldnn.matmul.fp32_precision
    with pytest.raises(RuntimeError), matmul.scope("onednn"):
        raise RuntimeError
    assert matmul.current() == "fp32"
    assert torch.backends.mkldnn.matmul.fp32_precision == before


def test_the_fastest_policy_whose_error_passes_is_chosen(monkeypatch):
    seconds = {"fp32": 1.0, "onednn": 0.5, "bf16": 0.2}
    errors = {"fp32": 1e-7, "onednn": 1e-7, "bf16": 2e-3}
    monkeypatch.setattr(matmul, "measure", lambda device, size: (seconds, errors))
    assert matmul.choose("cpu") == "bf16"
    errors["bf16"] = 0.1
    assert matmul.choose("cpu") == "onednn"
    errors["onednn"] = 1e-4
    assert matmul.choose("cpu") == "fp32"


def test_a_gain_within_the_noise_is_not_taken(monkeypatch):
    seconds = {"fp32": 1.0, "onednn": 0.95, "bf16": 0.93}
    errors = dict.fromkeys(seconds, 0.0)
    monkeypatch.setattr(matmul, "measure", lambda device, size: (seconds, errors))
    assert matmul.choose("cpu") == "fp32"


def test_int8_is_taken_where_it_gains_much_on_bf16_that_would_be_taken(
    monkeypatch: pytest.MonkeyPatch,
):
    seconds = {"fp32": 1.0, "onednn": 0.9, "bf16": 0.5, "int8": 0.3}
    errors = {"fp32": 1e-7, "onednn": 1e-7, "bf16": 2e-3, "int8": 1.7e-2}
    monkeypatch.setattr(matmul, "measure", lambda device, size: (seconds, errors))
    assert matmul.choose("cpu") == "int8"
    seconds["int8"] = 0.45
    assert matmul.choose("cpu") == "bf16"
    seconds |= {"int8": 0.1, "bf16": 1.5}
    assert matmul.choose("cpu") == "onednn"
    seconds["bf16"], errors["int8"] = 0.5, 0.1
    assert matmul.choose("cpu") == "bf16"
    del seconds["int8"]
    assert matmul.choose("cpu") == "bf16"


@needs_int8
def test_int8_is_taken_at_its_word_where_it_is_exact():
    assert matmul.check("int8") == "int8"


@pytest.mark.parametrize("lacks", ["product", "exactness"])
def test_int8_is_refused_where_torch_or_the_processor_has_no_such_product(
    lacks: str, monkeypatch: pytest.MonkeyPatch
):
    if lacks == "product":
        monkeypatch.delattr(torch, "_int_mm")
    else:

        def saturating(a, b, out):
            return out.copy_((a.int() @ b.int()).clamp(-(2**15), 2**15 - 1))

        monkeypatch.setattr(torch, "_int_mm", saturating)
        monkeypatch.setattr(matmul, "_is_exact", matmul._is_exact.__wrapped__)
    with pytest.raises(ConfigError, match=r"no product of 8-bit integers .* Choose `bf16`"):
        matmul.check("int8")
    seconds, _ = matmul.measure(torch.device("cpu"), size=64, repeats=1)
    assert set(seconds) == {"fp32", "onednn", "bf16"}


@needs_int8
def test_large_products_are_in_bf16_under_int8_too():
    assert not matmul.in_bf16()
    for policy, expected in (("onednn", False), ("bf16", True), ("int8", True)):
        with matmul.scope(policy):
            assert matmul.in_bf16() is expected


def test_measuring_finds_the_error_of_each_arithmetic():
    seconds, errors = matmul.measure(torch.device("cpu"), size=128, repeats=1)
    assert all(0 < s < 10 for s in seconds.values())
    assert errors["fp32"] < 1e-6
    assert 1e-4 < errors["bf16"] < 1e-2
    assert ("int8" in errors) is matmul.has_int8()
    assert 1e-3 < errors.get("int8", 1e-2) < 3e-2


def test_an_unknown_policy_is_refused_with_the_known_ones():
    with pytest.raises(ConfigError, match=r"`fp16`.*fp32, onednn, bf16, int8"):
        matmul.check("fp16")
