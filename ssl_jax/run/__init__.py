"""A run as a folder and a process: config, checkpoints, log, signals, other processes, provenance."""
