"""`igpo report`: one self-contained HTML page that says what one or several runs did, and whether to trust it."""

from igpo_cli.report.page import write_report

__all__ = ["write_report"]
