"""The search page of an index: rendered here, served to this machine, with nothing loaded from elsewhere.

Needs the extra `serve`; imported by `fewvit index serve` alone.
"""
