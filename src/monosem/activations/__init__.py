"""Where training gets its activations: a protocol, and its in-memory and live sources."""
