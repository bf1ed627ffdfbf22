"""The live page: history, metrics and the FastAPI app."""
