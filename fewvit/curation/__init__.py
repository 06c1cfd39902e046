"""Data sets as they lie on a disk: what is wrong with one, how it is parted, and what other forms it takes."""
