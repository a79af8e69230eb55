"""The page on attention-only models says nothing that is not so."""

import re
from pathlib import Path

import pytest

from monosem.constructions.approximations import approximation
from monosem.constructions.gated import Product, unit_roundoff

PAGE = Path(__file__).resolve().parents[2] / "docs/attention-only.md"


def test_the_lines_of_python_convert_the_embedded_model(capsys):
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text("utf-8"), re.S | re.M)
    exec(compile("".join(blocks), PAGE.name, "exec"), {})
    assert float(capsys.readouterr().out) < 1e-3


def test_the_table_and_the_bounds_are_those_of_the_code():
    import torch

    text = PAGE.read_text("utf-8")
    for name, row in (("gelu", "GELU (erf)"), ("gelu_tanh", "GELU (tanh)")):
        (errors,) = re.findall(rf"^\| {re.escape(row)} \| 1, 2, 3, 4 \| (.*) \|$", text, re.M)
        stated = [float(e) for e in errors.split(", ")]
        assert stated == pytest.approx(
            [approximation(name, n).error for n in (1, 2, 3, 4)], rel=6e-3
        )
    said = re.sub(r"\s+", " ", text)
    for dtype, numbers in (
        ("float64", "1.2e-10, 2.0e-12, 4.1e-13"),
        ("float32", "8.0e-5, 2.0e-5, 1.3e-5"),
    ):
        assert f"{numbers} in {dtype}" in said
        made = [
            Product(n_terms=m).error(1.0, unit_roundoff(getattr(torch, dtype))) for m in (1, 2, 3)
        ]
        assert [float(n) for n in numbers.split(", ")] == pytest.approx(made, rel=0.04)
