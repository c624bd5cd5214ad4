"""Simulator, data sets, training and evaluation."""
