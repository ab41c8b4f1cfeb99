"""What frozen encoders make of a data set."""
