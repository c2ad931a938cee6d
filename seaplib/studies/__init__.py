"""One question a module: the designs behind the notebooks after Table 1."""
