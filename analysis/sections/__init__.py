"""The sections of a report: sentences, tables and figures."""
