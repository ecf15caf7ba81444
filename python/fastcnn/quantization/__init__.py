"""fc.quantize: int8 after training, for inference on the CPU.

A trained Module becomes one whose convolutions and linear layers multiply bytes: int8 weights with a scale for each
output channel, uint8 activations with one scale and zero for each tensor, found on calibration data, int32 sums
(Jacob et al. 2018). What lies between stays in bytes where it can: pooling, concatenation, residual sums. docs/api/
quantization.md tells what is done with which layer. Not here: training with quantisation, int8 on CUDA.
"""

from ._model import QuantizedModel
from ._quantize import quantize

__all__ = ["QuantizedModel", "quantize"]
