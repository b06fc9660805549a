"""Thousands of devices in one process: they speak the whole protocol, and only their inference is made up."""
