"""Verbs to come."""
