"""Label-efficient few-shot learning on frozen self-supervised ViTs."""

__version__ = "0.1.0"
