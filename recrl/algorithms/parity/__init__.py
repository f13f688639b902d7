"""Quirks of reference code, with the same contracts, for comparisons."""
