"""The built-in verifiers, one module each; nothing is imported until it is used."""
