"""Images as networks see them: random views, each a function of (seed, epoch, row), and the evaluation's own view."""
