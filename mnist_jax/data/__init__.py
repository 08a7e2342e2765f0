"""Data sets: found or fetched, checked, and read as uint8 arrays. Imports no other room."""
