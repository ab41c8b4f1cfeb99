"""What is on disk: whole-or-nothing files, journals, locks, records, digests, what ships with the package."""
