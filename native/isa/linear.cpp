#include "isa/linear.hpp"

namespace halfpint::HALFPINT_ISA {
namespace {
#define HALFPINT_STRINGIZE_(x) #x
#define HALFPINT_STRINGIZE(x) HALFPINT_STRINGIZE_(x)
constexpr LinearKernels kKernels{HALFPINT_STRINGIZE(HALFPINT_ISA)};
}  // namespace

const LinearKernels& linear_kernels();
const LinearKernels& linear_kernels() { return kKernels; }

}  // namespace halfpint::HALFPINT_ISA
