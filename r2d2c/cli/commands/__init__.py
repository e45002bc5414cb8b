"""The commands, one a file. Each module has a function `command`, imported only when it is called for."""
