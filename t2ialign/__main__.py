"""`python -m t2ialign`, which launchers of several processes need."""

from t2ialign.cli.main import main

main()
