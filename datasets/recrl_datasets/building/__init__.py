"""From tables to a store: indices, sorting, external merge, writing, digests."""
