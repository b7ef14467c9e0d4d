"""How far a quantized model is from the original, with error bars, on text that calibration never saw."""
