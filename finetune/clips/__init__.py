"""Labelled clips, which of them a run learns from, and how a classifier reads them."""
