"""Asking judges about folders of images."""
