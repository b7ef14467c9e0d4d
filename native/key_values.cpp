#include "key_values.hpp"

#include <cstring>

#include "dispatch.hpp"
#include "scratch.hpp"
#include "threads.hpp"

namespace halfpint {
namespace {

// Rows that are worked on together: they share the reading of keys and values.
constexpr std::size_t kItemRows = 64;
// Products of queries and keys that are worth a thread: some 10 microseconds.
constexpr std::size_t kLeastProducts = 1 << 17;

// One item after the other, each through all splits.
void attend_in_order(const AttentionKernels& kernels, const AttentionTask& task, std::size_t token_block) {
    const std::size_t blocks = (task.tokens + token_block - 1) / token_block, columns = task.shape.value_columns();
    const std::size_t rows = token_block * task.group(), sums = sums_floats(rows, columns);
    const std::size_t work = rows * task.length * task.shape.head_dim;
    const std::size_t grain = std::max<std::size_t>(1, kLeastProducts / std::max<std::size_t>(1, work));
    parallel_for(blocks * task.shape.kv_heads, grain, [&](std::size_t begin, std::size_t end) {
        const Scratch scratch(2 * sums + attend_floats(rows, task.shape));
        const AttentionSums all = sums_at(scratch.get(), rows, columns), next = sums_at(scratch.get() + sums, rows, columns);
        for (std::size_t index = begin; index < end; ++index) {
            // The last tokens see most: they come first, so that no thread is left alone with them.
            const std::size_t first = (blocks - 1 - index / task.shape.kv_heads) * token_block;
            const AttentionItem item{index % task.shape.kv_heads, first, std::min(task.tokens, first + token_block)};
            const std::size_t first_split = task.first_seen(item.token_begin) / kSplitPositions;
            const std::size_t splits = task.position(item.token_end - 1) / kSplitPositions + 1;
            for (std::size_t split = first_split; split < splits; ++split) {
                const bool is_first = split == first_split;
                kernels.attend(task, item, split, is_first ? all : next, scratch.get() + 2 * sums);
                if (!is_first) kernels.join((item.token_end - item.token_begin) * task.group(), columns, all, next);
            }
            kernels.finish(task, item, all);
        }
    });
}

// The few items of a long text: every split on its own, then joined in order. The same sums, so the same bits.
void attend_in_splits(const AttentionKernels& kernels, const AttentionTask& task, std::size_t first_split,
                      std::size_t splits) {
    const std::size_t rows = task.tokens * task.group(), columns = task.shape.value_columns();
    const std::size_t sums = sums_floats(rows, columns), heads = task.shape.kv_heads;
    const Scratch parts(heads * splits * sums);
    parallel_for(heads * splits, 1, [&](std::size_t begin, std::size_t end) {
        const Scratch scratch(attend_floats(rows, task.shape));
        for (std::size_t index = begin; index < end; ++index)
            kernels.attend(task, {index / splits, 0, task.tokens}, first_split + index % splits,
                           sums_at(parts.get() + index * sums, rows, columns), scratch.get());
    });
    for (std::size_t head = 0; head < heads; ++head) {
        const auto part = [&](std::size_t split) {
            return sums_at(parts.get() + (head * splits + split) * sums, rows, columns);
        };
        for (std::size_t split = 1; split < splits; ++split) kernels.join(rows, columns, part(0), part(split));
        kernels.finish(task, {head, 0, task.tokens}, part(0));
    }
}

}  // namespace

void KeyValues::append(const float* keys, const float* values, std::size_t tokens) {
    const auto& kernels = attention_kernels();
    const std::size_t columns = this->columns(), start = length_;
    grow(start + tokens);
    // In blocks of 16 positions, which lie side by side.
    const std::size_t first = start / 16, blocks = (start + tokens + 15) / 16 - first;
    parallel_for(blocks, kLeastProducts / (32 * columns) + 1, [&](std::size_t begin, std::size_t end) {
        const Scratch scratch(shape_.head_dim);
        const std::size_t last = std::min(start + tokens, (first + end) * 16);
        for (std::size_t position = std::max(start, (first + begin) * 16); position < last; ++position)
            kernels.store(shape_, pages_[position / kPagePositions].get(), position % kPagePositions,
                          keys + (position - start) * columns, values + (position - start) * columns, scratch.get());
    });
    length_ += tokens;
}

void KeyValues::attend(const Attending& of) const {
    const AttentionTask task{shape_, addresses_.data(), length_, of.tokens, of.heads, of.queries, of.scale, of.window,
                             of.cap, of.out};
    const std::size_t token_block = std::max<std::size_t>(1, kItemRows / task.group());
    const std::size_t first_split = task.first_seen(0) / kSplitPositions;
    const std::size_t splits = (length_ - 1) / kSplitPositions + 1 - first_split;
    const bool few = shape_.kv_heads < 4 * static_cast<std::size_t>(thread_count());
    if (of.tokens <= token_block && splits > 1 && few)
        attend_in_splits(attention_kernels(), task, first_split, splits);
    else
        attend_in_order(attention_kernels(), task, token_block);
}

void KeyValues::read(std::size_t start, std::size_t tokens, float* keys, float* values) const {
    const auto& kernels = attention_kernels();
    for (std::size_t i = 0; i < tokens; ++i)
        kernels.read(shape_, addresses_[(start + i) / kPagePositions], (start + i) % kPagePositions, keys + i * columns(),
                     values + i * columns());
}

void KeyValues::save(std::uint8_t* out) const {
    for (std::size_t page = 0; page < pages_for(length_); ++page)
        std::memcpy(out + page * shape_.page_bytes(), addresses_[page], shape_.page_bytes());
}

void KeyValues::restore(const std::uint8_t* bytes, std::size_t length) {
    grow(length);
    for (std::size_t page = 0; page < pages_for(length); ++page)
        std::memcpy(pages_[page].get(), bytes + page * shape_.page_bytes(), shape_.page_bytes());
    length_ = length;
}

void KeyValues::grow(std::size_t length) {
    while (pages_.size() < pages_for(length)) {
        pages_.emplace_back(shape_.page_bytes());
        addresses_.push_back(pages_.back().get());
    }
}

}  // namespace halfpint
