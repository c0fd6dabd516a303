"""What the chapters on training call: the tables they rest on, and their figures."""
