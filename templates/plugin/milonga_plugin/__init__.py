"""A plug-in for Milonga. Nothing is imported here: each part is loaded only where it is asked for."""
