// The solvers' inner loops for NumPy: shapes are checked here, once.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/tuple.h>

#include <algorithm>
#include <stdexcept>
#include <tuple>
#include <utility>
#include <vector>

#include "arguments.hpp"
#include "dispatch.hpp"
#include "scratch.hpp"
#include "threads.hpp"

namespace nb = nanobind;

namespace halfpint {
void bind_solve(nb::module_& module);

namespace {

using Floats = nb::ndarray<const float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using FloatMatrix = nb::ndarray<const float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using WriteFloats = nb::ndarray<float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using WriteBytes = nb::ndarray<std::uint8_t, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using WriteShorts = nb::ndarray<std::int16_t, nb::ndim<2>, nb::c_contig, nb::device::cpu>;

template <class Matrix>
void require_shape(const Matrix& matrix, std::size_t rows, std::size_t columns, const char* message) {
    require(matrix.shape(0) == rows && matrix.shape(1) == columns, message);
}

// Owns the tables that a SolveLattice points to.
struct Lattice {
    std::vector<float> levels, middles, subscales, submins;
    SolveLattice view;
};

void make_lattice(Lattice* self, const Floats& levels, const Floats& subscales, const Floats& submins, int minimum,
                  std::tuple<int, float, float> holder, std::pair<std::size_t, std::size_t> widths) {
    const auto [kind, smallest, largest] = holder;
    require(levels.size() > 0 && levels.size() <= 256, "a lattice has 1 to 256 levels");
    require(subscales.size() > 0 && submins.size() > 0, "tables have at least one entry");
    require(subscales.size() <= 32767 && submins.size() <= 32767, "a table is too long");
    require(minimum >= 0 && minimum <= 2 && kind >= 0 && kind <= 3, "no such minimum or scale");
    require(widths.first > 0 && widths.second % widths.first == 0 && widths.second > 0, "blocks are whole groups");
    new (self) Lattice{{levels.data(), levels.data() + levels.size()},
                       {},
                       {subscales.data(), subscales.data() + subscales.size()},
                       {submins.data(), submins.data() + submins.size()},
                       {}};
    bool uniform = true;
    for (std::size_t i = 0; i + 1 < self->levels.size(); ++i) {
        self->middles.push_back((self->levels[i + 1] + self->levels[i]) / 2.0f);
        uniform = uniform && self->levels[i + 1] - self->levels[i] == 1.0f;
    }
    self->view = SolveLattice{.levels = self->levels.data(),
                              .middles = self->middles.data(),
                              .level_count = self->levels.size(),
                              .uniform = uniform,
                              .subscales = self->subscales.data(),
                              .subscale_count = self->subscales.size(),
                              .submins = self->submins.data(),
                              .submin_count = self->submins.size(),
                              .minimum = static_cast<MinimumKind>(minimum),
                              .holder = static_cast<ScaleHolder>(kind),
                              .smallest_scale = smallest,
                              .largest_scale = largest,
                              .group_columns = widths.first,
                              .block_columns = widths.second};
}

std::size_t count(std::size_t columns, std::size_t width) { return (columns + width - 1) / width; }

void feed_back(const Lattice& lattice, const FloatMatrix& weight, const FloatMatrix& factor, const FloatMatrix& scale,
               const FloatMatrix& offset, WriteBytes indices, WriteFloats errors) {
    const std::size_t rows = weight.shape(0), columns = weight.shape(1);
    const std::size_t groups = count(columns, lattice.view.group_columns);
    require_shape(factor, columns, columns, "the factor must be [columns, columns]");
    require_shape(scale, rows, groups, "scales must be one for each group");
    require_shape(offset, rows, groups, "offsets must be one for each group");
    require_shape(indices, rows, columns, "indices must have the weight's shape");
    require_shape(errors, rows, columns, "errors must have the weight's shape");
    const FeedbackTask task{rows,         columns,       groups,         weight.data(), factor.data(),
                            scale.data(), offset.data(), indices.data(), errors.data()};
    const SolveKernels& kernels = solve_kernels();
    nb::gil_scoped_release released;
    parallel_for(count(rows, kernels.lanes), 1, [&](std::size_t begin, std::size_t end) {
        const Scratch scratch(feedback_floats(kernels.lanes, columns));
        kernels.feed_back(lattice.view, task, begin * kernels.lanes, std::min(rows, end * kernels.lanes),
                          scratch.get());
    });
}

// Every index must have its place in its table.
template <class Matrix>
void require_below(const Matrix& indices, std::size_t limit, const char* message) {
    const auto* values = indices.data();
    for (std::size_t i = 0; i < indices.size(); ++i)
        require(values[i] >= 0 && static_cast<std::size_t>(values[i]) < limit, message);
}

void refine(const Lattice& lattice, const FloatMatrix& gradient, const FloatMatrix& moments, int rounds,
            WriteBytes indices, std::pair<WriteFloats, WriteFloats> scales, std::pair<WriteShorts, WriteShorts> subs,
            WriteFloats change) {
    const std::size_t rows = gradient.shape(0), columns = gradient.shape(1);
    const std::size_t groups = count(columns, lattice.view.group_columns);
    const std::size_t blocks = count(columns, lattice.view.block_columns);
    auto& [scale, minimum] = scales;
    auto& [subscale, submin] = subs;
    require_shape(moments, columns, columns, "moments must be [columns, columns]");
    require_shape(indices, rows, columns, "indices must have the gradient's shape");
    require_shape(change, rows, columns, "change must have the gradient's shape");
    require_shape(scale, rows, blocks, "scales must be one for each block");
    require_shape(minimum, rows, blocks, "minima must be one for each block");
    require_shape(subscale, rows, groups, "sub-scales must be one for each group");
    require_shape(submin, rows, groups, "sub-minima must be one for each group");
    require_below(indices, lattice.levels.size(), "an index is beyond the levels");
    require_below(subscale, lattice.subscales.size(), "an index is beyond the sub-scales");
    require_below(submin, lattice.submins.size(), "an index is beyond the sub-minima");
    const RefineTask task{rows,           columns,      groups,         blocks,          rounds,        gradient.data(),
                          moments.data(), indices.data(), scale.data(), minimum.data(), subscale.data(), submin.data(),
                          change.data()};
    const SolveKernels& kernels = solve_kernels();
    nb::gil_scoped_release released;
    parallel_for(count(rows, kernels.lanes), 1, [&](std::size_t begin, std::size_t end) {
        const Scratch scratch(refine_floats(kernels.lanes, task));
        kernels.refine(lattice.view, task, begin * kernels.lanes, std::min(rows, end * kernels.lanes), scratch.get());
    });
}

}  // namespace

void bind_solve(nb::module_& module) {
    nb::class_<Lattice>(module, "Lattice").def("__init__", &make_lattice);
    module.def("solve_isa", [] { return solve_kernels().isa; });
    module.def("feed_back", &feed_back, nb::arg("lattice"), nb::arg("weight"), nb::arg("factor"), nb::arg("scale"),
               nb::arg("offset"), out("indices"), out("errors"));
    module.def("refine", &refine, nb::arg("lattice"), nb::arg("gradient"), nb::arg("moments"), nb::arg("rounds"),
               out("indices"), out("scales"), out("subs"), out("change"));
}
}  // namespace halfpint
