"""Monosem: sparse dictionary learning on language models, from text to features."""
