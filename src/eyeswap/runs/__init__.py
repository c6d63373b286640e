"""The run folder: where its files are, what they record, and whether they are unchanged."""
