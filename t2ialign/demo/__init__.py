"""The whole path on Shapes, measured."""
