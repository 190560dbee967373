"""What `igpo new` copies: for each kind of plug-in a working module, `KIND.py`, and its tests, `check_KIND.py`.

They are ordinary modules, so lint, types and tests hold them to what they promise. In a copy, `Mine`, "mine" and the
module's own name become those that the user chose (`igpo_cli.scaffold`).
"""
