"""How fast the programs of a run are, beside their peers."""
