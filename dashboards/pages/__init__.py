"""One page a module; each has a ``page`` function."""
