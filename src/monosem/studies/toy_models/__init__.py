"""Toy models: what superposition is, on models so small that all of it can be seen.

Elhage et al. 2022, "Toy Models of Superposition"; Sharkey et al. 2022, "Taking features out of
superposition with sparse autoencoders"; and the argument of Bricken et al. 2023 about one-hot neurons.
"""
