"""Pages of the documentation that are written from the product: the command line, and the control API."""
