"""A slice of the suite once more, on a database whose defaults are all unusual."""
