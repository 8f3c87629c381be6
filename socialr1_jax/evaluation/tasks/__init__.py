"""One file a benchmark; `registry.py` lists them."""
