"""Fitted classifiers to keep: fit, save, load, add, predict."""
