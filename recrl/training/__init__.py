"""Loops that train a learner, and the checkpoints that let them go on."""
