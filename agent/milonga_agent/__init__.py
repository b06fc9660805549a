"""The device side of Milonga: enrols, measures, installs, serves and watches."""

__version__ = "0.1.0"
