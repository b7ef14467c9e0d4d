#include "isa/encode.hpp"

namespace halfpint::HALFPINT_ISA {
namespace {
#define HALFPINT_STRINGIZE_(x) #x
#define HALFPINT_STRINGIZE(x) HALFPINT_STRINGIZE_(x)
constexpr EncodeKernels kKernels{HALFPINT_STRINGIZE(HALFPINT_ISA)};
}  // namespace

const EncodeKernels& encode_kernels();
const EncodeKernels& encode_kernels() { return kKernels; }

}  // namespace halfpint::HALFPINT_ISA
