// What a decoder does between its products, over NumPy arrays: shapes are checked here, once.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <algorithm>
#include <stdexcept>

#include "arguments.hpp"
#include "dispatch.hpp"
#include "threads.hpp"

namespace nb = nanobind;

namespace halfpint {
void bind_elementwise(nb::module_& module);

namespace {

using Row = nb::ndarray<const float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using ReadRows = nb::ndarray<const float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using ReadStrided = nb::ndarray<const float, nb::ndim<2>, nb::device::cpu>;
using Rows = nb::ndarray<float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;

// Elements that are worth a thread: some 10 microseconds.
constexpr std::size_t kLeastElements = 1 << 15;

std::size_t row_grain(std::size_t columns) { return kLeastElements / std::max<std::size_t>(1, columns) + 1; }

// Call body(begin, end) over rows; few are not worth giving the interpreter up for.
template <typename Body>
void over_rows(std::size_t rows, std::size_t columns, const Body& body) {
    if (rows <= row_grain(columns)) return body(0, rows);
    const nb::gil_scoped_release released;
    parallel_for(rows, row_grain(columns), body);
}

void rms_norm(ReadRows x, Row weight, float epsilon, Rows out) {
    const std::size_t rows = x.shape(0), columns = x.shape(1);
    require(weight.shape(0) == columns, "the weight has the columns of x");
    require(out.shape(0) == rows && out.shape(1) == columns, "out has the shape of x");
    const auto& kernels = elementwise_kernels();
    const float *source = x.data(), *factors = weight.data();
    float* target = out.data();
    over_rows(rows, columns, [=, &kernels](std::size_t begin, std::size_t end) {
        for (std::size_t row = begin; row < end; ++row)
            kernels.rms_norm(source + row * columns, factors, columns, epsilon, target + row * columns);
    });
}

void rotate(Rows x, std::size_t head_dim, ReadRows cosines, ReadRows sines) {
    const std::size_t rows = x.shape(0), columns = x.shape(1), half = cosines.shape(1);
    require(head_dim > 0 && columns % head_dim == 0 && 2 * half <= head_dim, "x is [tokens, heads * head_dim]");
    require(cosines.shape(0) == rows && sines.shape(0) == rows && sines.shape(1) == half, "there is an angle per token");
    const auto& kernels = elementwise_kernels();
    float* heads = x.data();
    const float *cosine = cosines.data(), *sine = sines.data();
    over_rows(rows, columns, [=, &kernels](std::size_t begin, std::size_t end) {
        for (std::size_t row = begin; row < end; ++row)
            kernels.rotate(heads + row * columns, columns / head_dim, head_dim, cosine + row * half, sine + row * half, half);
    });
}

void gate(int activation, ReadStrided gates, ReadStrided ups, Rows out) {
    const std::size_t rows = out.shape(0), columns = out.shape(1);
    require(activation == 0 || activation == 1, "no such activation");
    require(gates.shape(0) == rows && gates.shape(1) == columns && ups.shape(0) == rows && ups.shape(1) == columns,
            "gate, up and out have one shape");
    require((gates.stride(1) == 1 && ups.stride(1) == 1) || columns == 1, "rows are contiguous");
    const auto& kernels = elementwise_kernels();
    const float *from_gate = gates.data(), *from_up = ups.data();
    const std::int64_t gate_stride = gates.stride(0), up_stride = ups.stride(0);
    float* target = out.data();
    over_rows(rows, columns, [=, &kernels](std::size_t begin, std::size_t end) {
        for (std::size_t row = begin; row < end; ++row)
            kernels.gate(static_cast<Activation>(activation), from_gate + static_cast<std::int64_t>(row) * gate_stride,
                         from_up + static_cast<std::int64_t>(row) * up_stride, columns, target + row * columns);
    });
}

void add(Rows into, ReadRows more) {
    const std::size_t rows = into.shape(0), columns = into.shape(1);
    require(more.shape(0) == rows && more.shape(1) == columns, "both have one shape");
    const auto& kernels = elementwise_kernels();
    float* target = into.data();
    const float* source = more.data();
    over_rows(rows, columns, [=, &kernels](std::size_t begin, std::size_t end) {
        kernels.add(target + begin * columns, source + begin * columns, (end - begin) * columns);
    });
}

}  // namespace

void bind_elementwise(nb::module_& module) {
    module.def("elementwise_isa", [] { return elementwise_kernels().isa; });
    module.def("rms_norm", &rms_norm, nb::arg("x"), nb::arg("weight"), nb::arg("epsilon"), out("out"));
    module.def("rotate", &rotate, out("x"), nb::arg("head_dim"), nb::arg("cosines"), nb::arg("sines"));
    module.def("gate", &gate, nb::arg("activation"), nb::arg("gates"), nb::arg("ups"), out("out"));
    module.def("add", &add, out("into"), nb::arg("more"));
}

}  // namespace halfpint
