"""Step time, where it goes, how it scales with trials, and what others take."""
