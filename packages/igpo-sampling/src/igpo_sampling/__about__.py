"""The version of this package, read by the build and by `igpo plugins`."""

__version__ = "0.1.0"
