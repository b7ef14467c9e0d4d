"""Deciding before paying: which tensor gets which format, what that weighs, and who can load it."""
