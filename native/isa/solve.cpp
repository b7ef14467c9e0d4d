// Error feedback and refinement with a row in each lane: the operations of solvers/reference.py, in their order.
#include "isa/solve.hpp"

#include <algorithm>

#include "isa/solve_lanes.hpp"

namespace halfpint::HALFPINT_ISA {
namespace {

void feed_rows(const SolveLattice& lattice, const FeedbackTask& task, std::size_t first, std::size_t rows,
               Lanes* remaining) {
    const std::size_t columns = task.columns;
    load_rows(task.weight + first * columns, columns, rows, remaining);
    Lanes scale = zeros(), offset = zeros(), factor = zeros();
    for (std::size_t column = 0; column < columns; ++column) {
        if (column % lattice.group_columns == 0) {
            const std::size_t at = first * task.groups + column / lattice.group_columns;
            for (std::size_t row = 0; row < rows; ++row) {
                scale[row] = task.scale[at + row * task.groups];
                offset[row] = task.offset[at + row * task.groups];
            }
            factor = inverse(scale);
        }
        const Nearest near = nearest_level(lattice, (remaining[column] - offset) * factor);
        const Lanes rounded = near.level * scale + offset;
        const float* spread = task.factor + column * columns;
        const Lanes error = (remaining[column] - rounded) * broadcast(1.0f / spread[column]);
        for (std::size_t later = column + 1; later < columns; ++later)
            remaining[later] = remaining[later] - error * broadcast(spread[later]);
        store_indices(near.index, column, columns, rows, task.indices + first * columns);
        for (std::size_t row = 0; row < rows; ++row)
            task.errors[(first + row) * columns + column] = lane_of(error, row);
    }
}

// Some rows of a task while they are refined; see _Patch in solvers/reference.py.
class Patch {
public:
    Patch(const SolveLattice& lattice, const RefineTask& task, Lanes* scratch)
        : lattice_(lattice), task_(task), columns_(task.columns) {
        Lanes* next = scratch;
        for (Lanes** array : {&values_, &before_, &gradient_, &level_, &index_, &direction_, &spread_, &other_, &step_}) {
            *array = next;
            next += columns_;
        }
        factor_ = next;
        offset_ = factor_ + task.groups;
        scale_ = offset_ + task.groups;
        minimum_ = scale_ + task.blocks;
    }

    void refine(std::size_t first, std::size_t rows) {
        first_ = first;
        rows_ = rows;
        load();
        for (int round = 0; round < task_.rounds; ++round) {
            if (lattice_.subscale_count > 1 || lattice_.submin_count > 1)
                for (std::size_t group = 0; group < task_.groups; ++group) move_group(group);
            if (lattice_.holder != ScaleHolder::fixed)
                for (std::size_t block = 0; block < task_.blocks; ++block) move_block(block);
            descend_all(round + 1 == task_.rounds);
        }
        store();
    }

private:
    static constexpr std::size_t kAtOnce = 8;  // gradients, or sums, in registers

    const SolveLattice& lattice_;
    const RefineTask& task_;
    std::size_t columns_;
    std::size_t first_ = 0;
    std::size_t rows_ = 0;
    Lanes *values_, *before_, *gradient_, *level_, *index_, *direction_, *spread_, *other_, *step_;
    Lanes *factor_, *offset_;  // of each group
    Lanes *scale_, *minimum_;  // of each block

    std::int16_t& subscale(std::size_t row, std::size_t group) const {
        return task_.subscale[(first_ + row) * task_.groups + group];
    }
    std::int16_t& submin(std::size_t row, std::size_t group) const {
        return task_.submin[(first_ + row) * task_.groups + group];
    }
    Lanes table_of(const float* table, std::size_t group, bool of_scale) const {
        Lanes found = zeros();
        for (std::size_t row = 0; row < rows_; ++row)
            found[row] = table[of_scale ? subscale(row, group) : submin(row, group)];
        return found;
    }
    std::size_t group_end(std::size_t group) const {
        return std::min(columns_, (group + 1) * lattice_.group_columns);
    }
    const float* moments(std::size_t column) const { return task_.moments + column * columns_; }

    void set_group(std::size_t group) {
        const std::size_t block = group * lattice_.group_columns / lattice_.block_columns;
        factor_[group] = scale_[block] * table_of(lattice_.subscales, group, true);
        offset_[group] = minimum_[block] * table_of(lattice_.submins, group, false);
    }

    void load() {
        load_rows(task_.gradient + first_ * columns_, columns_, rows_, gradient_);
        load_rows(task_.scale + first_ * task_.blocks, task_.blocks, rows_, scale_);
        load_rows(task_.minimum + first_ * task_.blocks, task_.blocks, rows_, minimum_);
        for (std::size_t group = 0; group < task_.groups; ++group) set_group(group);
        for (std::size_t column = 0; column < columns_; ++column) {
            Lanes level = zeros(), index = zeros();
            for (std::size_t row = 0; row < rows_; ++row) {
                const std::uint8_t at = task_.indices[(first_ + row) * columns_ + column];
                index[row] = at;
                level[row] = lattice_.levels[at];
            }
            const std::size_t group = column / lattice_.group_columns;
            index_[column] = index;
            level_[column] = level;
            values_[column] = before_[column] = level * factor_[group] + offset_[group];
        }
    }

    void store() {
        for (std::size_t column = 0; column < columns_; ++column) {
            store_indices(index_[column], column, columns_, rows_, task_.indices + first_ * columns_);
            before_[column] = values_[column] - before_[column];
        }
        store_rows(before_, columns_, rows_, task_.change + first_ * columns_);
        store_rows(scale_, task_.blocks, rows_, task_.scale + first_ * task_.blocks);
        store_rows(minimum_, task_.blocks, rows_, task_.minimum + first_ * task_.blocks);
    }

    // Note that columns [start, end) have other values now, and give the gradient of columns [from, to) its due.
    void follow(std::size_t start, std::size_t end, std::size_t from, std::size_t to) {
        for (; from + kAtOnce <= to; from += kAtOnce) follow_some<kAtOnce>(start, end, from);
        for (; from < to; ++from) follow_some<1>(start, end, from);
    }

    template <std::size_t count>
    void follow_some(std::size_t start, std::size_t end, std::size_t from) {
        Lanes sums[count];
        for (std::size_t i = 0; i < count; ++i) sums[i] = gradient_[from + i];
        for (std::size_t column = start; column < end; ++column) {
            const Lanes step = step_[column];
            const float* row = moments(column) + from;
            for (std::size_t i = 0; i < count; ++i) sums[i] = sums[i] - step * broadcast(row[i]);
        }
        for (std::size_t i = 0; i < count; ++i) gradient_[from + i] = sums[i];
    }

    void step_to(std::size_t column, Lanes value) {
        step_[column] = value - values_[column];
        values_[column] = value;
    }

    // Each gradient gets the steps of all columns in ascending order, whether at once or later. After the last of all
    // nobody asks for those of columns that are done.
    void descend_all(bool last) {
        constexpr std::size_t kRun = 32;
        for (std::size_t start = 0; start < columns_; start += kRun) {
            const std::size_t end = std::min(columns_, start + kRun);
            for (std::size_t column = start; column < end; ++column) {
                descend(column);
                if (any(step_[column])) follow(column, column + 1, last ? column - column % kAtOnce : start, end);
            }
            if (!last) follow(start, end, 0, start);
            follow(start, end, end, columns_);
        }
    }

    void descend(std::size_t column) {
        const std::size_t group = column / lattice_.group_columns;
        const Lanes wished = values_[column] + gradient_[column] * broadcast(1.0f / moments(column)[column]);
        const Nearest near = nearest_level(lattice_, (wished - offset_[group]) * inverse(factor_[group]));
        index_[column] = near.index;
        level_[column] = near.level;
        step_to(column, near.level * factor_[group] + offset_[group]);
    }

    void take_groups(std::size_t first, std::size_t last) {
        const std::size_t start = first * lattice_.group_columns, end = group_end(last - 1);
        for (std::size_t group = first; group < last; ++group) {
            set_group(group);
            for (std::size_t column = group * lattice_.group_columns; column < group_end(group); ++column)
                step_to(column, level_[column] * factor_[group] + offset_[group]);
        }
        follow(start, end, 0, columns_);
    }

    // out = values H over columns [start, end).
    void product(const Lanes* values, std::size_t start, std::size_t end, Lanes* out) const {
        std::size_t to = start;
        for (; to + kAtOnce <= end; to += kAtOnce) product_of_some<kAtOnce>(values, start, end, to, out);
        for (; to < end; ++to) product_of_some<1>(values, start, end, to, out);
    }

    template <std::size_t count>
    void product_of_some(const Lanes* values, std::size_t start, std::size_t end, std::size_t to, Lanes* out) const {
        Lanes sums[count];
        for (std::size_t i = 0; i < count; ++i) sums[i] = zeros();
        for (std::size_t from = start; from < end; ++from) {
            const float* row = moments(from) + to;
            for (std::size_t i = 0; i < count; ++i) sums[i] = sums[i] + values[from] * broadcast(row[i]);
        }
        for (std::size_t i = 0; i < count; ++i) out[to + i] = sums[i];
    }

    static Lanes dot(const Lanes* a, const Lanes* b, std::size_t start, std::size_t end) {
        Lanes sum = zeros();
        for (std::size_t column = start; column < end; ++column) sum = sum + a[column] * b[column];
        return sum;
    }

    static Lanes sum_of(const Lanes* a, std::size_t start, std::size_t end) {
        Lanes sum = zeros();
        for (std::size_t column = start; column < end; ++column) sum = sum + a[column];
        return sum;
    }

    float moment_total(std::size_t start, std::size_t end) const {
        float total = 0.0f;
        for (std::size_t to = start; to < end; ++to) {
            float sum = 0.0f;
            for (std::size_t from = start; from < end; ++from) sum += moments(from)[to];
            total += sum;
        }
        return total;
    }

    void move_group(std::size_t group) {
        const std::size_t start = group * lattice_.group_columns, end = group_end(group);
        const std::size_t block = start / lattice_.block_columns;
        product(level_, start, end, spread_);
        const Lanes level_level = dot(level_, spread_, start, end), level_one = sum_of(spread_, start, end);
        const float one = moment_total(start, end);
        const Lanes gradient_level = dot(gradient_, level_, start, end), gradient_one = sum_of(gradient_, start, end);
        const Lanes scale = scale_[block], minimum = minimum_[block], inverse_minimum = inverse(minimum);
        const Lanes two = broadcast(2.0f);
        Lanes best = zeros();
        std::int16_t sub[kLanes], min[kLanes];
        for (std::size_t row = 0; row < rows_; ++row) {
            sub[row] = subscale(row, group);
            min[row] = submin(row, group);
        }
        for (const int step : {0, -1, 1, -2, 2}) {
            if (step != 0 && lattice_.subscale_count == 1) break;
            std::int16_t tried[kLanes], moved[kLanes];
            Lanes factor = zeros(), shift = zeros();
            for (std::size_t row = 0; row < rows_; ++row) {
                tried[row] = clipped(sub[row] + step, lattice_.subscale_count);
                moved[row] = min[row];
                factor[row] = lattice_.subscales[tried[row]] - lattice_.subscales[sub[row]];
            }
            factor = scale * factor;
            if (lattice_.submin_count > 1) {
                const Lanes wished = (gradient_one - factor * level_one) * broadcast(1.0f / one);
                const Lanes steps = round_even(clamp((zeros() - wished) * inverse_minimum, -512.0f, 512.0f));
                for (std::size_t row = 0; row < rows_; ++row)
                    moved[row] = clipped(min[row] + static_cast<int>(lane_of(steps, row)), lattice_.submin_count);
            }
            for (std::size_t row = 0; row < rows_; ++row)
                shift[row] = lattice_.submins[moved[row]] - lattice_.submins[min[row]];
            shift = minimum * shift;
            const Lanes loss = factor * factor * level_level + two * factor * shift * level_one +
                               shift * shift * broadcast(one) - two * (factor * gradient_level + shift * gradient_one);
            for (std::size_t row = 0; row < rows_; ++row)
                if (lane_of(loss, row) < lane_of(best, row)) {
                    best[row] = lane_of(loss, row);
                    subscale(row, group) = tried[row];
                    submin(row, group) = moved[row];
                }
        }
        take_groups(group, group + 1);
    }

    static std::int16_t clipped(int index, std::size_t count) {
        return static_cast<std::int16_t>(std::clamp(index, 0, static_cast<int>(count) - 1));
    }

    // What the file can hold that is nearest: the sign kept, never 0 and never infinite.
    Lanes storable(Lanes values) const {
        const std::int32_t sign = static_cast<std::int32_t>(0x80000000u);
        Lanes size = magnitude(values);
        if (lattice_.holder == ScaleHolder::f16) size = to_half(size);
        if (lattice_.holder == ScaleHolder::bf16) size = to_bfloat(size);
        return from_bits(bits_of(clamp(size, lattice_.smallest_scale, lattice_.largest_scale)) |
                         (bits_of(values) & sign));
    }

    void move_block(std::size_t block) {
        const std::size_t start = block * lattice_.block_columns;
        const std::size_t end = std::min(columns_, start + lattice_.block_columns);
        const std::size_t first_group = start / lattice_.group_columns;
        const std::size_t last_group = (end + lattice_.group_columns - 1) / lattice_.group_columns;
        const bool own = lattice_.minimum == MinimumKind::own, tied = lattice_.minimum == MinimumKind::tied;
        for (std::size_t group = first_group; group < last_group; ++group) {
            const Lanes sub = table_of(lattice_.subscales, group, true);
            const Lanes min = table_of(lattice_.submins, group, false);
            for (std::size_t column = group * lattice_.group_columns; column < group_end(group); ++column) {
                direction_[column] = sub * level_[column];
                if (tied) direction_[column] = direction_[column] + min;
                other_[column] = own ? min : zeros();
            }
        }
        product(direction_, start, end, spread_);
        const Lanes ss = dot(direction_, spread_, start, end), gs = dot(gradient_, direction_, start, end);
        Lanes sm = zeros(), mm = zeros(), gm = zeros();
        if (own) {
            sm = dot(other_, spread_, start, end);
            gm = dot(gradient_, other_, start, end);
            product(other_, start, end, spread_);
            mm = dot(other_, spread_, start, end);
        }
        choose_block(block, ss, sm, mm, gs, gm);
        take_groups(first_group, last_group);
    }

    void choose_block(std::size_t block, Lanes ss, Lanes sm, Lanes mm, Lanes gs, Lanes gm) {
        const Lanes determinant = ss * mm - sm * sm, two = broadcast(2.0f);
        const Lanes safe = select(less(ss * mm * broadcast(1e-4f), determinant), determinant, zeros());
        const Lanes scale = scale_[block], minimum = minimum_[block];
        const Lanes steps[3][2] = {{safe_ratio(mm * gs - sm * gm, safe), safe_ratio(ss * gm - sm * gs, safe)},
                                   {safe_ratio(gs, ss), zeros()},
                                   {zeros(), safe_ratio(gm, mm)}};
        Lanes best = zeros();
        for (const auto& step : steps) {
            const Lanes new_scale = select(equal(step[0], zeros()), scale, storable(scale + step[0]));
            const Lanes new_minimum = select(equal(step[1], zeros()), minimum, storable(minimum + step[1]));
            const Lanes s = new_scale - scale, m = new_minimum - minimum;
            const Lanes loss = s * s * ss + two * s * m * sm + m * m * mm - two * (s * gs + m * gm);
            const Mask better = less(loss, best);
            best = select(better, loss, best);
            scale_[block] = select(better, new_scale, scale_[block]);
            minimum_[block] = select(better, new_minimum, minimum_[block]);
        }
        if (lattice_.minimum == MinimumKind::tied) minimum_[block] = scale_[block];
    }
};

void feed_back(const SolveLattice& lattice, const FeedbackTask& task, std::size_t begin, std::size_t end,
               float* scratch) {
    for (std::size_t first = begin; first < end; first += kLanes)
        feed_rows(lattice, task, first, std::min<std::size_t>(kLanes, end - first), reinterpret_cast<Lanes*>(scratch));
}

void refine(const SolveLattice& lattice, const RefineTask& task, std::size_t begin, std::size_t end, float* scratch) {
    Patch patch(lattice, task, reinterpret_cast<Lanes*>(scratch));
    for (std::size_t first = begin; first < end; first += kLanes)
        patch.refine(first, std::min<std::size_t>(kLanes, end - first));
}

#define HALFPINT_STRINGIZE_(x) #x
#define HALFPINT_STRINGIZE(x) HALFPINT_STRINGIZE_(x)
constexpr SolveKernels kKernels{HALFPINT_STRINGIZE(HALFPINT_ISA), kLanes, feed_back, refine};
}  // namespace

const SolveKernels& solve_kernels();
const SolveKernels& solve_kernels() { return kKernels; }

}  // namespace halfpint::HALFPINT_ISA
