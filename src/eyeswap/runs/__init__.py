"""The run folder: its files, what they record, and whether they are as they were written."""
