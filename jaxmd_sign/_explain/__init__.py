"""Explain: which potential an interpolating β minimises, or nearly."""
