"""Dictionaries: one file per architecture, one export line here; exporting it registers it."""

from monosem.dictionaries.base import Dictionary as Dictionary
