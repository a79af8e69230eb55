"""Towards Monosemanticity: Decomposing Language Models With Dictionary Learning, recomputed.

Bricken et al. 2023: the MLP neurons of a one-layer transformer taken apart by dictionaries of several
widths; one file a figure. What needs people, an explainer or another room says that it is missing.
"""
