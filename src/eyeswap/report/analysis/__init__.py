"""The numbers of a report, computed from finished runs."""
