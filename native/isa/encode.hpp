// The contract of the encoders, one implementation for all instruction sets (isa/encode.cpp).
#pragma once
#include <cstddef>

namespace halfpint {

struct EncodeKernels {
    const char* isa;
};

}  // namespace halfpint
