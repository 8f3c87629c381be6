"""The client of OpenAI-compatible servers, and the interpretation of their answers."""
