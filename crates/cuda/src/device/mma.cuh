// Tensor-core products, the only place with PTX. Empty so far: products are fmaf loops.

#pragma once

#include "prelude.cuh"
