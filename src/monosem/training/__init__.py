"""Training: dictionaries on a stream of activations, and small language models on tokens."""
