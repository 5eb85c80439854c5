"""The engine's own forward pass: C++ kernels that are built here, and the model on them."""
