"""Faithful stand-ins for the published BIMT code."""
