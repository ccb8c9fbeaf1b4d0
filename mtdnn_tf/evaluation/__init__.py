"""Metrics, scores of whole splits, finished runs and their reports."""
