"""Hardware models: devices, converters, substrates and resistive circuits. Empty until that work lands."""
