#include "dispatch.hpp"

#include <atomic>

namespace halfpint {
namespace portable {
const GroupKernels& group_kernels();
const EncodeKernels& encode_kernels();
const LinearKernels& linear_kernels();
const IntegerKernels& integer_kernels();
const PanelKernels& panel_kernels();
const IntegerPackers& integer_packers();
const SolveKernels& solve_kernels();
const AttentionKernels& attention_kernels();
const ElementwiseKernels& elementwise_kernels();
const ProbeKernels& probe_kernels();
}  // namespace portable
#if defined(HALFPINT_X86)
namespace avx2 {
const GroupKernels& group_kernels();
const EncodeKernels& encode_kernels();
const LinearKernels& linear_kernels();
const IntegerKernels& integer_kernels();
const PanelKernels& panel_kernels();
const IntegerPackers& integer_packers();
const SolveKernels& solve_kernels();
const AttentionKernels& attention_kernels();
const ElementwiseKernels& elementwise_kernels();
const ProbeKernels& probe_kernels();
}  // namespace avx2
namespace avx512 {
const GroupKernels& group_kernels();
const EncodeKernels& encode_kernels();
const LinearKernels& linear_kernels();
const IntegerKernels& integer_kernels();
const PanelKernels& panel_kernels();
const IntegerPackers& integer_packers();
const SolveKernels& solve_kernels();
const AttentionKernels& attention_kernels();
const ElementwiseKernels& elementwise_kernels();
const ProbeKernels& probe_kernels();
}  // namespace avx512
#endif

namespace {
std::atomic<Isa>& active() {
    static std::atomic<Isa> isa{best_isa()};
    return isa;
}
}  // namespace

Isa active_isa() { return active().load(); }

bool force_isa(Isa isa) {
    if (static_cast<int>(isa) > static_cast<int>(best_isa())) return false;
    active().store(isa);
    return true;
}

#if defined(HALFPINT_X86)
const GroupKernels& group_kernels() {
    switch (active_isa()) {
        case Isa::avx512: return avx512::group_kernels();
        case Isa::avx2: return avx2::group_kernels();
        case Isa::portable: break;
    }
    return portable::group_kernels();
}

const EncodeKernels& encode_kernels() {
    switch (active_isa()) {
        case Isa::avx512: return avx512::encode_kernels();
        case Isa::avx2: return avx2::encode_kernels();
        case Isa::portable: break;
    }
    return portable::encode_kernels();
}

const LinearKernels& linear_kernels() {
    switch (active_isa()) {
        case Isa::avx512: return avx512::linear_kernels();
        case Isa::avx2: return avx2::linear_kernels();
        case Isa::portable: break;
    }
    return portable::linear_kernels();
}

const IntegerKernels& integer_kernels() {
    switch (active_isa()) {
        case Isa::avx512: return avx512::integer_kernels();
        case Isa::avx2: return avx2::integer_kernels();
        case Isa::portable: break;
    }
    return portable::integer_kernels();
}

const IntegerPackers& integer_packers() {
    switch (active_isa()) {
        case Isa::avx512: return avx512::integer_packers();
        case Isa::avx2: return avx2::integer_packers();
        case Isa::portable: break;
    }
    return portable::integer_packers();
}

const PanelKernels& panel_kernels() {
    switch (active_isa()) {
        case Isa::avx512: return avx512::panel_kernels();
        case Isa::avx2: return avx2::panel_kernels();
        case Isa::portable: break;
    }
    return portable::panel_kernels();
}

const AttentionKernels& attention_kernels() {
    switch (active_isa()) {
        case Isa::avx512: return avx512::attention_kernels();
        case Isa::avx2: return avx2::attention_kernels();
        case Isa::portable: break;
    }
    return portable::attention_kernels();
}

const ElementwiseKernels& elementwise_kernels() {
    switch (active_isa()) {
        case Isa::avx512: return avx512::elementwise_kernels();
        case Isa::avx2: return avx2::elementwise_kernels();
        case Isa::portable: break;
    }
    return portable::elementwise_kernels();
}

const SolveKernels& solve_kernels() {
    switch (active_isa()) {
        case Isa::avx512: return avx512::solve_kernels();
        case Isa::avx2: return avx2::solve_kernels();
        case Isa::portable: break;
    }
    return portable::solve_kernels();
}
const ProbeKernels& probe_kernels() {
    switch (active_isa()) {
        case Isa::avx512: return avx512::probe_kernels();
        case Isa::avx2: return avx2::probe_kernels();
        case Isa::portable: break;
    }
    return portable::probe_kernels();
}
#else
const GroupKernels& group_kernels() { return portable::group_kernels(); }
const EncodeKernels& encode_kernels() { return portable::encode_kernels(); }
const LinearKernels& linear_kernels() { return portable::linear_kernels(); }
const IntegerKernels& integer_kernels() { return portable::integer_kernels(); }
const PanelKernels& panel_kernels() { return portable::panel_kernels(); }
const IntegerPackers& integer_packers() { return portable::integer_packers(); }
const SolveKernels& solve_kernels() { return portable::solve_kernels(); }
const AttentionKernels& attention_kernels() { return portable::attention_kernels(); }
const ElementwiseKernels& elementwise_kernels() { return portable::elementwise_kernels(); }
const ProbeKernels& probe_kernels() { return portable::probe_kernels(); }
#endif

}  // namespace halfpint
