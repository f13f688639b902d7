"""Published comparisons run again: a method beside its baselines and controls, cell by cell, with a verdict in plain words."""
