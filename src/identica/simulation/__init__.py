"""Simulation: sources, mixings and the named scenarios of the literature."""
