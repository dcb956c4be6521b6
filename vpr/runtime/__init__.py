"""Device, threads, precision, timing and files: what every stage uses of the machine."""
