"""Sweeps: many backbones, data sets, methods and shots; planned, measured cell by cell, resumed, and spread."""
