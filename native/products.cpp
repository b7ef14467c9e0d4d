// A decoder multiplies with the same weights in the same order for every token. Between two products memory would rest
// while norms, attention and Python have their turn: so it is remembered which product followed the last time, and waiting
// workers ask for the beginning of what they will read there (set_ahead). On two cores this is worth some 5 % of the time
// of a token.
#include "products.hpp"

#include <algorithm>
#include <limits>
#include <mutex>
#include <unordered_map>

#if defined(__linux__)
#include <unistd.h>
#endif

#include "dispatch.hpp"
#include "threads.hpp"

namespace halfpint {
namespace {

// A factor whose blocks of rows are [begin, end) among those of all.
struct Part {
    const IntegerWeight* weight;
    float* out;
    std::size_t begin, end;
};

// A thread takes more than so many bytes at a time: some 2 us of reading.
constexpr std::size_t kPieceBytes = std::size_t{1} << 15;

struct Work {
    std::vector<Part> parts;
    Stretches stretches;
};

Work divide(const std::vector<Factor>& factors) {
    Work work;
    work.parts.reserve(factors.size());
    std::size_t blocks = 0, least_bytes = std::numeric_limits<std::size_t>::max();
    for (const Factor& factor : factors) {
        const std::size_t begin = blocks;
        blocks += factor.weight->row_blocks();
        work.parts.push_back({factor.weight, factor.out, begin, blocks});
        least_bytes = std::min(least_bytes, factor.weight->block_bytes);
    }
    work.stretches = stretches_of(blocks, kPieceBytes / least_bytes + 1);
    return work;
}

// Where the block `index` of a work begins; null behind the last one.
const std::uint8_t* block_at(const Work& work, std::size_t index) {
    for (const Part& part : work.parts)
        if (index < part.end) return part.weight->data + (index - part.begin) * part.weight->block_bytes;
    return nullptr;
}

// A third of the second-level cache for what is brought in early: the rest is for the product itself, and for Python.
std::size_t ahead_bytes() {
    static const std::size_t bytes = [] {
        constexpr long least = 1 << 18;
#if defined(__linux__) && defined(_SC_LEVEL2_CACHE_SIZE)
        return static_cast<std::size_t>(std::max(least, sysconf(_SC_LEVEL2_CACHE_SIZE))) / 3;
#else
        return static_cast<std::size_t>(least);
#endif
    }();
    return bytes;
}

// Where each thread begins.
std::vector<const std::uint8_t*> beginnings(const Work& work) {
    std::vector<const std::uint8_t*> found;
    for (std::size_t thread = 0; thread < work.stretches.count; ++thread)
        found.push_back(block_at(work, work.stretches.begin(thread)));
    return found;
}

// What workers ask for while they wait.
std::vector<Ahead> to_ask(const std::vector<const std::uint8_t*>& next) {
    std::vector<Ahead> found;
    for (std::size_t thread = 1; thread < next.size(); ++thread) found.push_back({next[thread], ahead_bytes()});
    return found;
}

// Which product followed which, by the address of the first weight's data. Addresses that are no longer in use do no harm.
class Order {
public:
    // What follows the product that begins now.
    std::vector<const std::uint8_t*> next(const Work& work) {
        const std::uint8_t* here = work.parts.front().weight->data;
        const std::unique_lock lock(mutex_, std::try_to_lock);  // a forked child may find it locked for ever
        if (!lock.owns_lock()) return {};
        if (followers_.size() > kMost) followers_.clear();
        followers_[last_] = beginnings(work);
        last_ = here;
        const auto found = followers_.find(here);
        return found == followers_.end() ? std::vector<const std::uint8_t*>{} : found->second;
    }

private:
    static constexpr std::size_t kMost = 1 << 14;
    std::mutex mutex_;
    std::unordered_map<const std::uint8_t*, std::vector<const std::uint8_t*>> followers_;
    const std::uint8_t* last_ = nullptr;
};

// What a thread reads after a piece of its own: the next piece, or its beginning in the next product.
const std::uint8_t* follow(const Work& work, const Piece& piece, const std::vector<const std::uint8_t*>& after) {
    if (piece.begin < piece.own_begin || piece.begin >= piece.own_end) return nullptr;
    if (piece.end < piece.own_end) return block_at(work, piece.end);
    return piece.thread < after.size() ? after[piece.thread] : nullptr;
}

}  // namespace

RoundedTokens::RoundedTokens(const float* x, std::size_t tokens, std::size_t columns)
    : padded_((columns + kGroupColumns - 1) / kGroupColumns * kGroupColumns) {
    const std::size_t groups = padded_ / kGroupColumns;
    codes_.resize(tokens * padded_);
    scales_.resize(tokens * groups);
    offsets_.resize(tokens * groups);
    negative_sums_.resize(2 * tokens * groups);
    const auto& kernels = integer_kernels();
    const std::size_t grain = (std::size_t{1} << 16) / (columns + 1) + 1;  // some 20 us
    parallel_for(tokens, grain, [&](std::size_t begin, std::size_t end) {
        for (std::size_t token = begin; token < end; ++token)
            kernels.quantize(x + token * columns, columns, codes_.data() + token * padded_, scales_.data() + token * groups,
                             negative_sums_.data() + 2 * token * groups, offsets_.data() + token * groups);
    });
}

std::size_t block_grain(std::size_t blocks, std::size_t block_bytes, std::size_t shares) {
    const std::size_t all = shares * static_cast<std::size_t>(thread_count());
    const std::size_t least = (std::size_t{1} << 17) / block_bytes + 1;
    return std::max(least, (blocks + all - 1) / all);
}

void multiply(const std::vector<Factor>& factors, const IntegerTokens& x, std::size_t tokens) {
    static Order order;
    Work work = divide(factors);
    const std::vector<const std::uint8_t*> after = order.next(work);
    if (thread_count() > 1) set_ahead(to_ask(after));
    const auto& kernels = integer_kernels();
    const std::size_t groups = x.columns / kGroupColumns;
    for (std::size_t first = 0; first < tokens; first += kMostTokens) {
        const std::size_t count = std::min(kMostTokens, tokens - first);
        const IntegerTokens some{x.codes + first * x.columns, x.scales + first * groups,
                                 x.negative_sums + 2 * first * groups, x.offsets + first * groups, x.columns};
        parallel_stretches(work.stretches, [&](const Piece& piece) {
            const std::uint8_t* then = follow(work, piece, after);
            for (const Part& part : work.parts) {
                const std::size_t from = std::max(piece.begin, part.begin), to = std::min(piece.end, part.end);
                if (from < to)
                    kernels.product(*part.weight, from - part.begin, to - part.begin, some, count, part.out,
                                    to == piece.end ? then : block_at(work, to));
            }
        });
        for (Part& part : work.parts) part.out += count * part.weight->rows;
    }
}

}  // namespace halfpint
