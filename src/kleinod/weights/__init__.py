"""Find files, map keys, load strictly."""
