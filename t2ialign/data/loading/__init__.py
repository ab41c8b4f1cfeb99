"""The order of the rows, and batches of them."""
