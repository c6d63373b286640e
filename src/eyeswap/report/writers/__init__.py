"""A report as a page, Markdown, LaTeX, tables for machines, and in the terminal."""
