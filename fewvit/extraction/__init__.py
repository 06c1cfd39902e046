"""From images to features: the pipeline's settings, the cache, and the loop that reads, decodes, encodes and stores."""
