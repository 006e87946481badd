"""Client programs, made from the description by two generators, against the real server behind the shipped proxy."""
