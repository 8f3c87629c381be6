"""Settings: one file for each configuration, and the command line that reads them."""
