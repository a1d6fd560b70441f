"""Spiking networks: neurons, liquids, plasticity, readouts and metrics. Empty until that work lands."""
