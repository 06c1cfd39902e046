"""The image index: its folder, search, evaluation, duplicates, and what else is made of it."""
