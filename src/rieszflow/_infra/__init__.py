"""Infrastructure that knows nothing of the mathematics: validation, compiled loops, memory, files, processes."""
