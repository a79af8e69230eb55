"""Pure functions from arrays and strings to escaped HTML and aligned text; the only place that escapes."""
