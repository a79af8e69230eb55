"""Sparse Autoencoders Find Highly Interpretable Features in Language Models, recomputed.

Cunningham, Ewart, Riggs, Huben & Sharkey 2023 (arXiv:2309.08600): dictionaries on residual streams and
MLPs beside every baseline, one file a figure. Localisation, editing and scores of explanations need
rooms that Monosem does not have yet; the report says so.
"""
