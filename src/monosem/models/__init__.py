"""Language models: sites, the table of families, and the one adapter over `transformers`.

The only room that reaches into a transformer (hooks, module names).
"""
