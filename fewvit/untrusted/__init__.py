"""What is read out of files that anyone may have written: a value, or a ValueError whatever is wrong; of a
pickle, which is a program, plain data or an IntegrityError. No torch.
"""
