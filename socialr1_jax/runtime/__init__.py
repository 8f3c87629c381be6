"""What every program here stands on: files, processes, devices, signals, text for people. It imports nothing else."""
