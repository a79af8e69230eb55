"""Sparse tables of latents by token: how much of each latent's activation is on each token."""

import numpy as np
from jaxtyping import Float, Int64
from scipy.sparse import csc_array, csr_array

from monosem.metrics.sample import Sample


def activation_by_token(
    sample: Sample, tokens: Int64[np.ndarray, " tokens"], vocab: int
) -> csr_array:
    """Return the activation of each latent summed over each token of the vocabulary."""
    return latents_by_token(sample.latents, tokens, vocab)


def latents_by_token(
    latents: csr_array, tokens: Int64[np.ndarray, " tokens"], vocab: int
) -> csr_array:
    """Return the same of latents [tokens n_latents] alone: activations need not be held for it."""
    rows, ones = np.arange(len(tokens)), np.ones(len(tokens), np.float32)
    one_hot = csr_array((ones, (rows, tokens)), shape=(len(tokens), vocab))
    return csr_array(latents.T @ one_hot)


def scaled(matrix: csr_array, factors: Float[np.ndarray, " rows"]) -> csr_array:
    """Return `matrix` with each row times its factor."""
    made = csr_array(matrix, dtype=np.float64, copy=True)
    made.data = made.data * np.repeat(factors, np.diff(made.indptr))
    return made


def sums(matrix: csr_array | csc_array, axis: int) -> Float[np.ndarray, " n"]:
    """Return sums over an axis of a sparse matrix."""
    return np.asarray(matrix.sum(axis), np.float64).ravel()
