"""Pages from feature databases: a self-contained report, and a local explorer of every feature."""
