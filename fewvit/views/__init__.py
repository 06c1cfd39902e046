"""Random views of images: crops, colours, resampling, RandAugment, mixing; each a function of (seed, epoch, row)."""
