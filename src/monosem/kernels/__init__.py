"""Sparse linear algebra written by hand, each kernel with a plain reference beside it."""
