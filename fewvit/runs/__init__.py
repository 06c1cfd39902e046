"""A run that trains something: the folder that it fills, and what it is asked for."""
