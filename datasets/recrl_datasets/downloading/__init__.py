"""Fetching datasets: transfers that go on, checksums, archives."""
