// Kernels with one fault each, for the tests that prove that the emulator finds it.

#include "prelude.cuh"
