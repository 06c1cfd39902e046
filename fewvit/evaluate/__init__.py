"""Evaluations on frozen features: what a command calls, each giving rows of a `Result`."""
