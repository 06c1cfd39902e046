"""Figures that a page and a picture share: axes, reliability diagrams, confusion matrices."""
