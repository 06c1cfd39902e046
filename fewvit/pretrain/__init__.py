"""Self-supervised pretraining on a folder of images."""
