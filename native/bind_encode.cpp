#include <nanobind/nanobind.h>

#include "dispatch.hpp"

namespace nb = nanobind;

namespace halfpint {
void bind_encode(nb::module_& module);
void bind_encode(nb::module_& module) {
    module.def("encode_isa", [] { return encode_kernels().isa; });
}
}  // namespace halfpint
