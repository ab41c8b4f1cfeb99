"""Rewards that ask a vision-language model behind a server."""
