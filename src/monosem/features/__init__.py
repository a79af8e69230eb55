"""Feature databases: one streaming pass from a corpus to the evidence on every latent at once."""
