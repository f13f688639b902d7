"""Published simulators as they are, documented defects and all: to check their formulas and to compare with, not to trust."""
