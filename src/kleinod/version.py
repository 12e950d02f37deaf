"""The one place where the version stands; the package's metadata are read from here."""

__version__ = "0.2.0"
