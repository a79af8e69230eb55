"""Measurements of dictionaries: reconstruction, loss recovered, density."""
