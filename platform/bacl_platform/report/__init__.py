"""What is read of results: tables, pages and pictures."""
