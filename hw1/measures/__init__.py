"""Measures: pure functions from networks and tensors to numbers, each tested against exact facts."""
