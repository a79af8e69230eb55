"""Interventions: context managers that change what a language model computes."""
