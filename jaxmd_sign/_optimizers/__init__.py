"""Discrete time: smoothed sign descent for optax, and any optax optimiser on our problems.

Transformation → training → report of one run, and the study of many; the command line last.
"""
