"""What a sweep can measure: one file for each evaluation, which says what its cells are and runs one.

The numbers of a cell are those of the command that it spells: each evaluation calls what its command calls.
"""
