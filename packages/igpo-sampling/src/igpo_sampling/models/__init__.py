"""Model families: what is loaded, how it is read, and how it is saved."""
