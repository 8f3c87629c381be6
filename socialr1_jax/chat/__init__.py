"""The one client of OpenAI-compatible servers, and what their answers mean."""
