"""Choosing a plan: sensitivities, forecasts, plan selection, the search for a size, and quality gates."""
