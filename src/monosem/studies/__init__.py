"""Studies: one a paper, its claims recomputed here."""
