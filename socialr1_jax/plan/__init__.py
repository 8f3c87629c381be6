"""Plan what a run takes on devices, here or elsewhere, before it starts."""
