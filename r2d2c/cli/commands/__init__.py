"""The commands, one a file. Each module has a function `command`, which is imported only when it is called for."""
