"""What the console reads and writes. It writes through functions of the database alone, each of which knows who acts."""
