"""Rewards over HTTP: one `POST /score` in JSON, described in docs/reward-service.md."""
