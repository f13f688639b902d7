"""Readers of the datasets' own files: each gives ``RawTables``."""
