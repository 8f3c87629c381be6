"""Read, write and convert model folders of Hugging Face and Orbax."""
