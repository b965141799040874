"""The report of a validation: a page for people and tables for programs."""
