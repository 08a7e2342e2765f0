"""Readers of the user's own data, one file a format; nothing is unpickled.

Each has `find`, which looks at names alone, and returns what to read.
"""
