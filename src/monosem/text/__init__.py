"""Text to tokens: corpora, tokenizers, the token store, and n-gram baselines."""
