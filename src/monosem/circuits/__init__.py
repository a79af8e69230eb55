"""What a language model is made of inside, and what feeds what: attributions, neurons, embeddings."""
