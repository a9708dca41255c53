"""The version of vtc, for its build, packages and the command line."""

__version__ = "0.1.0"
