#include <nanobind/nanobind.h>

#include "dispatch.hpp"

namespace nb = nanobind;

namespace halfpint {
void bind_linear(nb::module_& module);
void bind_linear(nb::module_& module) {
    module.def("linear_isa", [] { return linear_kernels().isa; });
}
}  // namespace halfpint
