// halfpint.kernels._native: what memory and arithmetic give, measured now.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>

#include <cstdint>
#include <span>
#include <string>

#include "dispatch.hpp"
#include "probe.hpp"

namespace nb = nanobind;

namespace halfpint {

using Memory = nb::ndarray<const std::uint64_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

void bind_probe(nb::module_& module);

void bind_probe(nb::module_& module) {
    module.def(
        "read_bandwidth",
        [](const Memory& memory, int rounds) {
            const std::span<const std::uint64_t> words(memory.data(), memory.size());
            const nb::gil_scoped_release release;
            return read_bandwidth(words, rounds);
        },
        nb::arg("memory"), nb::arg("rounds"));
    module.def("integer_peak", &integer_peak, nb::arg("rounds"), nb::call_guard<nb::gil_scoped_release>());
    module.def("integer_instruction", [] { return std::string(probe_kernels().instruction); });
}

}  // namespace halfpint
