"""What a run would take on devices, here or elsewhere, before it starts."""
