// One table of function pointers per instruction set; the table in use is chosen once and can be forced by tests.
#pragma once
#include "cpu.hpp"
#include "isa/groups.hpp"
#include "isa/encode.hpp"
#include "isa/linear.hpp"
#include "isa/integer.hpp"
#include "isa/panel.hpp"
#include "isa/probe.hpp"
#include "isa/solve.hpp"
#include "isa/attention.hpp"
#include "isa/elementwise.hpp"

namespace halfpint {

Isa active_isa();
// Use the kernels of one instruction set from now on. False when this build or processor does not have it.
bool force_isa(Isa isa);

const GroupKernels& group_kernels();
const EncodeKernels& encode_kernels();
const LinearKernels& linear_kernels();
const IntegerKernels& integer_kernels();
const PanelKernels& panel_kernels();
const IntegerPackers& integer_packers();
const SolveKernels& solve_kernels();
const AttentionKernels& attention_kernels();
const ElementwiseKernels& elementwise_kernels();

}  // namespace halfpint
