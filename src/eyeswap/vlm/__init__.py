"""The VLM: connector, chat frame, model."""
