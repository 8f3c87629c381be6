"""Files, processes, devices, signals and console text. It imports nothing else from the package."""
