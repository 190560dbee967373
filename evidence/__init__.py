"""Does hinting help? The arms of the paper's argument, on the built-in list problems (`make evidence`, `make demo`)."""
