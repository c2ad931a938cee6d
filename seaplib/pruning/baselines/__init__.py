"""Methods that are not SEAP, one paper a module."""
