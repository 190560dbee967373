"""The built-in task sources, one module each; nothing is imported until it is used."""
