"""Tuning: the ε that is best for an objective, by its derivative through the limit."""
