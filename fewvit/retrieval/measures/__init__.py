"""Measures of a ranking, as functions of NumPy arrays: each is written from its definition, and is percent unless it
says otherwise.
"""
