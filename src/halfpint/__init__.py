"""halfpint: big models, poured into small glasses."""

__version__ = "0.1.0"
