"""What finished runs scored: read, averaged, compared, rescored, pooled."""
