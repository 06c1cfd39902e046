"""What is read out of files that anyone may have written: a value, or a ValueError whatever is wrong. No torch."""
