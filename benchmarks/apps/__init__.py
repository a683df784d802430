"""What is served. Servers import this package from the directory above it, the drivers as a part of ``benchmarks``."""
