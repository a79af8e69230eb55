"""Ground floor: errors, configuration, artifacts and progress. Imports nothing of Monosem.

Axes in the jaxtyping annotations of the whole library, which the tests check at run time:

    batch      vectors in a batch                 n_latents  latents of a dictionary
    pos        positions in a context             n_heads    attention heads
    d_in       width of what a dictionary reads   d_head     width of one head
    d_out      width of what it reconstructs      vocab      tokens of the vocabulary
    n_sites    sites read or written at once      k          active latents kept a token
"""
