"""Where a model's program is run: the program in one interpreter, the tests in another, plain data between them.

A program can therefore not end the tests, redefine what they compare with, read what they expect or report its own
success. `executor.py` has the interface; `monty.py` and `processes.py` the back ends.
"""
