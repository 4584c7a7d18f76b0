"""The commands behind `python -m aiovfork`; nothing in the library imports this package."""
