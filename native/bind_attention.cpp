// halfpint.kernels._native.KeyValues: the keys and values of one text in one layer, and attention over them.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <stdexcept>
#include <string>
#include <vector>

#include "dispatch.hpp"
#include "scratch.hpp"
#include "threads.hpp"

namespace nb = nanobind;

namespace halfpint {
void bind_attention(nb::module_& module);

namespace {

using ReadFloats = nb::ndarray<const float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Floats = nb::ndarray<float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using ReadBytes = nb::ndarray<const std::uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Bytes = nb::ndarray<std::uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

// Rows that are worked on together: they share the reading of keys and values.
constexpr std::size_t kItemRows = 64;
// Products of queries and keys that are worth a thread: some 10 microseconds.
constexpr std::size_t kLeastProducts = 1 << 17;
constexpr std::size_t kMostDims = 1 << 16;

void require(bool holds, const char* what) {
    if (!holds) throw std::invalid_argument(what);
}

// Zeros on whole cache lines; the system gives memory only for what is written.
class Page {
public:
    explicit Page(std::size_t bytes) : block_(static_cast<std::uint8_t*>(std::calloc(bytes + 63, 1))) {
        if (!block_) throw std::bad_alloc();
    }
    std::uint8_t* get() const {
        return reinterpret_cast<std::uint8_t*>((reinterpret_cast<std::uintptr_t>(block_.get()) + 63) / 64 * 64);
    }

private:
    struct Free {
        void operator()(std::uint8_t* block) const { std::free(block); }
    };
    std::unique_ptr<std::uint8_t, Free> block_;
};

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

class KeyValues {
public:
    KeyValues(const std::string& kind, std::size_t kv_heads, std::size_t head_dim)
        : shape_{kind == "f32"   ? CacheKind::f32
                 : kind == "f16" ? CacheKind::f16
                                 : CacheKind::q8,
                 kv_heads, head_dim} {
        require(kind == "f32" || kind == "f16" || kind == "q8", "no such kind of cache");
        require(kv_heads > 0 && head_dim > 0 && kv_heads <= kMostDims && head_dim <= kMostDims, "heads have dimensions");
    }

    KeyValues(const KeyValues&) = delete;
    KeyValues& operator=(const KeyValues&) = delete;

    std::size_t length() const { return length_; }
    std::size_t nbytes() const { return pages_.size() * shape_.page_bytes(); }
    std::size_t stored_bytes(std::size_t length) const { return pages_for(length) * shape_.page_bytes(); }

    void append(ReadFloats keys, ReadFloats values) {
        const std::size_t columns = shape_.kv_heads * shape_.head_dim, tokens = keys.shape(0), start = length_;
        require(keys.shape(1) == columns && values.shape(1) == columns, "keys and values are [tokens, heads * head_dim]");
        require(values.shape(0) == tokens, "there are as many keys as values");
        const auto& kernels = attention_kernels();
        const float *key = keys.data(), *value = values.data();
        const nb::gil_scoped_release released;
        grow(start + tokens);
        // In blocks of 16 positions, which lie side by side.
        const std::size_t first = start / 16, blocks = (start + tokens + 15) / 16 - first;
        parallel_for(blocks, kLeastProducts / (32 * columns) + 1, [&](std::size_t begin, std::size_t end) {
            const Scratch scratch(shape_.head_dim);
            const std::size_t last = std::min(start + tokens, (first + end) * 16);
            for (std::size_t position = std::max(start, (first + begin) * 16); position < last; ++position)
                kernels.store(shape_, pages_[position / kPagePositions].get(), position % kPagePositions,
                              key + (position - start) * columns, value + (position - start) * columns, scratch.get());
        });
        length_ += tokens;
    }

    void attend(ReadFloats queries, float scale, std::size_t window, float cap, Floats out) const {
        const std::size_t tokens = queries.shape(0), columns = queries.shape(1), heads = columns / shape_.head_dim;
        require(heads * shape_.head_dim == columns && heads % shape_.kv_heads == 0, "queries are [tokens, heads * head_dim]");
        require(heads > 0 && tokens <= length_, "queries are those of the last tokens");
        require(out.shape(0) == tokens && out.shape(1) == columns, "out has the shape of the queries");
        if (tokens == 0) return;
        const float* query = queries.data();
        float* output = out.data();
        const nb::gil_scoped_release released;
        const AttentionTask task{shape_, addresses_.data(), length_, tokens, heads, query, scale, window, cap, output};
        const std::size_t token_block = std::max<std::size_t>(1, kItemRows / task.group());
        const std::size_t first_split = task.first_seen(0) / kSplitPositions;
        const std::size_t splits = (length_ - 1) / kSplitPositions + 1 - first_split;
        const bool few = shape_.kv_heads < 4 * static_cast<std::size_t>(thread_count());
        if (tokens <= token_block && splits > 1 && few)
            attend_in_splits(attention_kernels(), task, first_split, splits);
        else
            attend_in_order(attention_kernels(), task, token_block);
    }

    void truncate(std::size_t length) { length_ = std::min(length_, length); }

    void read(std::size_t start, Floats keys, Floats values) const {
        const std::size_t tokens = keys.shape(0), columns = shape_.kv_heads * shape_.head_dim;
        require(keys.shape(1) == columns && values.shape(1) == columns, "keys and values are [tokens, heads * head_dim]");
        require(values.shape(0) == tokens && start <= length_ && tokens <= length_ - start, "positions are held");
        const auto& kernels = attention_kernels();
        for (std::size_t i = 0; i < tokens; ++i)
            kernels.read(shape_, addresses_[(start + i) / kPagePositions], (start + i) % kPagePositions,
                         keys.data() + i * columns, values.data() + i * columns);
    }

    void save(Bytes out) const {
        require(out.shape(0) == stored_bytes(length_), "out has stored_bytes(length)");
        for (std::size_t page = 0; page < pages_for(length_); ++page)
            std::memcpy(out.data() + page * shape_.page_bytes(), addresses_[page], shape_.page_bytes());
    }

    void restore(ReadBytes bytes, std::size_t length) {
        require(length <= (std::size_t{1} << 40) && bytes.shape(0) == stored_bytes(length), "bytes are stored_bytes(length)");
        grow(length);
        for (std::size_t page = 0; page < pages_for(length); ++page)
            std::memcpy(pages_[page].get(), bytes.data() + page * shape_.page_bytes(), shape_.page_bytes());
        length_ = length;
    }

private:
    static std::size_t pages_for(std::size_t length) { return (length + kPagePositions - 1) / kPagePositions; }

    void grow(std::size_t length) {
        while (pages_.size() < pages_for(length)) {
            pages_.emplace_back(shape_.page_bytes());
            addresses_.push_back(pages_.back().get());
        }
    }

    CacheShape shape_;
    std::size_t length_ = 0;
    std::vector<Page> pages_;
    std::vector<const std::uint8_t*> addresses_;
};

}  // namespace

// What is written to is never converted: the caller would not see it.
void bind_attention(nb::module_& module) {
    module.def("attention_isa", [] { return attention_kernels().isa; });
    nb::class_<KeyValues>(module, "KeyValues")
        .def(nb::init<const std::string&, std::size_t, std::size_t>(), nb::arg("kind"), nb::arg("kv_heads"),
             nb::arg("head_dim"))
        .def_prop_ro("length", &KeyValues::length)
        .def_prop_ro("nbytes", &KeyValues::nbytes)
        .def("stored_bytes", &KeyValues::stored_bytes, nb::arg("length"))
        .def("append", &KeyValues::append, nb::arg("keys"), nb::arg("values"))
        .def("attend", &KeyValues::attend, nb::arg("queries"), nb::arg("scale"), nb::arg("window"), nb::arg("cap"),
             nb::arg("out").noconvert())
        .def("truncate", &KeyValues::truncate, nb::arg("length"))
        .def("read", &KeyValues::read, nb::arg("start"), nb::arg("keys").noconvert(),
             nb::arg("values").noconvert())
        .def("save", &KeyValues::save, nb::arg("out").noconvert())
        .def("restore", &KeyValues::restore, nb::arg("pages"), nb::arg("length"));
}

}  // namespace halfpint
