"""The image index: built, searched, evaluated and served."""
