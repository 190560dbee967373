"""`python -m igpo_cli` is `igpo`."""

from igpo_cli.main import main

main()
