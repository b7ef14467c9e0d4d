// The module halfpint.kernels._native: each bind_*.cpp registers one subject. Bindings check dtype, shape and
// contiguity once and then hand over pointers; kernels check nothing and allocate nothing.
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include "dispatch.hpp"
#include "processors.hpp"
#include "threads.hpp"

#if defined(__GLIBC__)
#include <malloc.h>
#endif

namespace nb = nanobind;

namespace halfpint {
void bind_groups(nb::module_& module);
void bind_encode(nb::module_& module);
void bind_linear(nb::module_& module);
void bind_integer(nb::module_& module);
void bind_probe(nb::module_& module);
void bind_solve(nb::module_& module);
void bind_attention(nb::module_& module);
void bind_elementwise(nb::module_& module);
void bind_block(nb::module_& module);

namespace {
// Arrays of up to 32 MiB, glibc's limit, that are freed stay with the process, up to so many bytes at the end of its heap.
void keep_freed_memory([[maybe_unused]] int kept_bytes) {
#if defined(__GLIBC__)
    mallopt(M_MMAP_THRESHOLD, 32 << 20);
    mallopt(M_TRIM_THRESHOLD, kept_bytes);
#endif
}
}  // namespace
}  // namespace halfpint

NB_MODULE(_native, module) {
    using namespace halfpint;
    module.def("cpu_features", &cpu_features);
    module.def("active_isa", [] { return std::string(isa_name(active_isa())); });
    module.def("best_isa", [] { return std::string(isa_name(best_isa())); });
    module.def("force_isa", [](const std::string& name) {
        for (const Isa isa : {Isa::portable, Isa::avx2, Isa::avxvnni, Isa::avx512, Isa::neon})
            if (name == isa_name(isa)) return force_isa(isa);
        return false;
    });
    module.def("thread_count", &thread_count);
    module.def("set_thread_count", &set_thread_count);
    module.def("use_one_thread_here", &use_one_thread_here);
    module.def("keep_freed_memory", &keep_freed_memory, nb::arg("kept_bytes"));
    module.def("processor_quota", &processor_quota, nb::arg("root"));
    bind_probe(module);
    bind_groups(module);
    bind_encode(module);
    bind_linear(module);
    bind_integer(module);
    bind_solve(module);
    bind_attention(module);
    bind_elementwise(module);
    bind_block(module);
}
