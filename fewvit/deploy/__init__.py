"""Backbones and bundles as files that other programs run: ONNX, and torch's exported programs; and labels by them."""
