"""The stages of the main job, each from inputs to artefacts in a run folder: data, learn, estimate, simulate, compare."""
