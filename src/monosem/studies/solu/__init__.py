"""Elhage et al. 2022, *Softmax Linear Units*: what SoLU, and the LayerNorm after it, do to neurons."""
