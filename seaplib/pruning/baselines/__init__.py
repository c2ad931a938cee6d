"""Methods that are not SEAP, a paper per module."""
