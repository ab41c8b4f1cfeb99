"""One HTML page of what a run did and measured."""
