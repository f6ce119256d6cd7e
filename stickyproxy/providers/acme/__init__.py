"""Certificates from an authority that speaks ACME (RFC 8555), as a provider."""
