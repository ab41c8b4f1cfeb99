"""The `unigenbench` command."""
