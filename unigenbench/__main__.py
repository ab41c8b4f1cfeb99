"""`python -m unigenbench`."""

from unigenbench.cli.main import main

main()
