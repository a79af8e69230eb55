"""Sparse rows, sparse columns, and the order between them."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monosem.features.examples import best_of_contexts, one_of_each_part
from monosem.features.sparse import Block, SparseActivations, SparseWriter, latent_dtype
from monosem.features.transposition import LatentMajor, Transposition, stable_order

N_LATENTS = 6
matrices = st.lists(
    st.lists(st.sampled_from([0.0, 0.0, 0.5, 1.0, 2.0]), min_size=N_LATENTS, max_size=N_LATENTS),
    min_size=1,
    max_size=25,
)


@settings(max_examples=60, deadline=None)
@given(matrix=matrices, block=st.integers(1, 9), at_once=st.integers(1, 30))
def test_the_transposition_is_that_of_the_dense_matrix(
    matrix: list[list[float]],
    block: int,
    at_once: int,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    dense = np.array(matrix)
    folder = tmp_path_factory.mktemp("transposition") / "scratch"
    with Transposition(folder, N_LATENTS) as transposition:
        for start in range(0, len(dense), block):
            places, latents = np.nonzero(dense[start : start + block])
            values = dense[start : start + block][places, latents].astype(np.float16)
            order = stable_order(latents, N_LATENTS)
            counts = np.bincount(latents, minlength=N_LATENTS)
            transposition.append(start, counts, places[order], values[order])
    found = np.zeros_like(dense)
    seen = 0
    for entries in transposition.ranges(at_once):
        assert entries.first == seen
        seen += entries.n_latents
        assert entries.n_latents == 1 or len(entries.values) <= at_once
        for latent in range(entries.n_latents):
            inside = slice(entries.offsets[latent], entries.offsets[latent + 1])
            assert (np.diff(entries.places[inside]) > 0).all()
            found[entries.places[inside], entries.first + latent] = entries.values[inside]
    assert seen == N_LATENTS
    np.testing.assert_array_equal(found, dense)
    np.testing.assert_array_equal(transposition.n_fired, (dense > 0).sum(0))


@settings(max_examples=60, deadline=None)
@given(keys=st.lists(st.integers(0, 200_000), max_size=200))
def test_the_radix_order_is_the_stable_order(keys: list[int]) -> None:
    wide = np.array(keys, np.int32)
    expected = np.argsort(wide, kind="stable").tolist()
    assert stable_order(wide, 200_001).tolist() == expected
    narrow = (wide % 5).astype(np.uint16)
    assert stable_order(narrow, 5).tolist() == np.argsort(narrow, kind="stable").tolist()


@settings(max_examples=40, deadline=None)
@given(matrix=matrices, n_latents=st.sampled_from([N_LATENTS, 70_000]))
def test_sparse_rows_read_back_what_was_written(
    matrix: list[list[float]], n_latents: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    context = 5
    dense = np.zeros((-(-len(matrix) // context) * context, N_LATENTS))
    dense[: len(matrix)] = matrix
    contexts = 3 + 2 * np.arange(len(dense) // context)
    folder = tmp_path_factory.mktemp("sparse") / "activations"
    with SparseWriter(folder) as writer:
        for part in np.split(dense, [context]):
            places, latents = np.nonzero(part)
            counts = np.bincount(places, minlength=len(part))
            ids = latents.astype(latent_dtype(n_latents))
            writer.append(Block(counts, ids, part[places, latents].astype(np.float16)))
        writer.close(contexts)
    read = SparseActivations(folder, n_latents=n_latents, context=context)
    for i, number in enumerate(contexts):
        for latent in range(N_LATENTS):
            found = read.of_latent(latent, int(number) * context + 1, context - 1)
            np.testing.assert_array_equal(found, dense[i * context + 1 : (i + 1) * context, latent])
    rows = read.rows(np.arange(len(dense)))
    assert [read.place(int(row)) for row in rows] == list(range(len(dense)))


@settings(max_examples=100, deadline=None)
@given(
    counts=st.lists(st.integers(0, 23), min_size=1, max_size=8),
    n=st.integers(0, 7),
    seed=st.integers(0, 5),
)
def test_one_of_each_part_takes_none_twice_and_all_of_a_small_group(
    counts: list[int], n: int, seed: int
) -> None:
    draws = np.random.default_rng(seed).random((len(counts), n))
    draws[0, :] = np.nextafter(1.0, 0.0)
    drawn = one_of_each_part(np.array(counts), draws).tolist()
    start = 0
    for size in counts:
        inside = [d for d in drawn if start <= d < start + size]
        assert len(inside) == len(set(inside)) == min(size, n)
        start += size
    assert drawn == sorted(drawn)


def test_the_first_of_equal_activations_is_the_best_of_its_context() -> None:
    entries = LatentMajor(
        0,
        np.array([0, 5, 6]),
        np.array([1, 2, 3, 9, 11, 0]),
        np.array([1.0, 3.0, 3.0, 2.0, 2.0, 7.0], np.float32),
    )
    found = best_of_contexts(entries, entries.latents(), context=8)
    assert entries.places[found].tolist() == [2, 9, 0]


def test_a_wider_dictionary_needs_wider_latents(tmp_path: Path) -> None:
    assert latent_dtype(1 << 16) == np.uint16
    assert latent_dtype((1 << 16) + 1) == np.int32
