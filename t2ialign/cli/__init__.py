"""The `t2ialign` command, one file a group of commands."""
