"""Toys: small worlds whose truth is known."""
