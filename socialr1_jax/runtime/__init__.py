"""Ground of every program here: files, processes, devices, signals, text for people. It imports no other room."""
