"""One module a verb: options (a frozen dataclass that is the command line) and the call."""
