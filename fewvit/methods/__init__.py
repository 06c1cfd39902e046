"""Pretraining methods, one file each: everything that distinguishes DINO, MSN and MAE, and nothing that they share. Their recipes: `recipes/`."""
