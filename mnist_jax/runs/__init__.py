"""A run on disk: trained, stopped, resumed, summarised, and read back."""
