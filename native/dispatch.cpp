#include "dispatch.hpp"

#include <atomic>

// Every table of kernels: its type, and the function of that name that each instruction set has.
#define HALFPINT_TABLES(entry)                   \
    entry(GroupKernels, group_kernels)           \
    entry(EncodeKernels, encode_kernels)         \
    entry(LinearKernels, linear_kernels)         \
    entry(IntegerKernels, integer_kernels)       \
    entry(IntegerPackers, integer_packers)       \
    entry(PanelKernels, panel_kernels)           \
    entry(SolveKernels, solve_kernels)           \
    entry(AttentionKernels, attention_kernels)   \
    entry(ElementwiseKernels, elementwise_kernels) \
    entry(ProbeKernels, probe_kernels)

#define HALFPINT_DECLARE(type, name) const type& name();

namespace halfpint {
namespace portable {
HALFPINT_TABLES(HALFPINT_DECLARE)
}  // namespace portable
#if defined(HALFPINT_X86)
namespace avx2 {
HALFPINT_TABLES(HALFPINT_DECLARE)
}  // namespace avx2
namespace avxvnni {
using namespace avx2;  // but for:
const PanelKernels& panel_kernels();
const ProbeKernels& probe_kernels();
}  // namespace avxvnni
namespace avx512 {
HALFPINT_TABLES(HALFPINT_DECLARE)
}  // namespace avx512
#elif defined(HALFPINT_ARM)
namespace neon {
HALFPINT_TABLES(HALFPINT_DECLARE)
}  // namespace neon
#endif

namespace {
std::atomic<Isa>& active() {
    static std::atomic<Isa> isa{best_isa()};
    return isa;
}
}  // namespace

Isa active_isa() { return active().load(); }

bool force_isa(Isa isa) {
    if (!has_isa(isa)) return false;
    active().store(isa);
    return true;
}

#if defined(HALFPINT_X86)
#define HALFPINT_CHOOSE(type, name)                      \
    const type& name() {                                 \
        switch (active_isa()) {                          \
            case Isa::avx512: return avx512::name();     \
            case Isa::avxvnni: return avxvnni::name();   \
            case Isa::avx2: return avx2::name();         \
            case Isa::neon:                              \
            case Isa::portable: break;                   \
        }                                                \
        return portable::name();                         \
    }
#elif defined(HALFPINT_ARM)
#define HALFPINT_CHOOSE(type, name) \
    const type& name() { return active_isa() == Isa::neon ? neon::name() : portable::name(); }
#else
#define HALFPINT_CHOOSE(type, name) \
    const type& name() { return portable::name(); }
#endif

HALFPINT_TABLES(HALFPINT_CHOOSE)

}  // namespace halfpint
