"""Builds a network for one engine, precision and device, and proves it right."""

__version__ = "0.1.0"
