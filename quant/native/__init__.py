"""Our own C code for CPUs, compiled where there is a compiler."""
