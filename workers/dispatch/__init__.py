"""Work: which kinds there are, how each is claimed, and the threads that do it."""
