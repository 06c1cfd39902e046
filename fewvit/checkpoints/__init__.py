"""Weights files: fetched, opened safely, read without running code, and filled into modules tensor by tensor."""
