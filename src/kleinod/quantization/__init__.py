"""Weights in the number formats they are published in; they know nothing about models or files."""
