"""Optional integrations with other tools, each imported only by its tool."""
