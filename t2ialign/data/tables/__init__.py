"""Tables of examples, read and checked."""
