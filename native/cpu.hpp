// What this processor can do, asked once.
#pragma once
#include <string>
#include <vector>

namespace halfpint {

// Instruction sets that kernels are compiled for. avx512 includes avx2, and avxvnni is avx2 with dot products of 8-bit
// integers, which only products with many tokens are compiled for; neon, of ARM, has the dot product instructions.
enum class Isa { portable = 0, avx2 = 1, avx512 = 2, neon = 3, avxvnni = 4 };

// Whether both this build and this processor have it.
bool has_isa(Isa isa);

// The best instruction set that both this build and this processor have.
Isa best_isa();

const char* isa_name(Isa isa);

// Names of the features that matter here and are present, e.g. "avx2", "avx512_vnni", "neon", "dotprod".
std::vector<std::string> cpu_features();

}  // namespace halfpint
