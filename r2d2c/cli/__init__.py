"""The command line. `main.py` has the table of commands; each is a file of its own in `commands/`."""
