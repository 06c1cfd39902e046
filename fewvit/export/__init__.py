"""What other programs load: a file for each of them, made of a backbone."""
