"""Preferences between stretches of users' lives: how pairs are cut and labelled, the reward learned from them, and what it has learned."""
