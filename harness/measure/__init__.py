"""One measuring process: its protocol, its operands' buffers, the gate and the clocks."""
