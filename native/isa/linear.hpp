// The contract of the matrix products over packed weights (isa/linear.cpp).
#pragma once
#include <cstddef>

namespace halfpint {

struct LinearKernels {
    const char* isa;
};

}  // namespace halfpint
