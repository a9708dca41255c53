"""NVIDIA GPUs: the driver, memory, streams, arrays on a device, copies, executables."""
