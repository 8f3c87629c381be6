"""Model folders of Hugging Face and of Orbax, read, written and converted."""
