#include "isa/encode.hpp"

#include <type_traits>

#include "formats/ggml_blocks.hpp"
#include "isa/ggml_nested.hpp"
#include "isa/ggml_single.hpp"

namespace halfpint::HALFPINT_ISA {
namespace {

inline float load_float(const void* values, FloatKind kind, std::size_t index) {
    if (kind == FloatKind::f32) return static_cast<const float*>(values)[index];
    const std::uint16_t half = static_cast<const std::uint16_t*>(values)[index];
    if (kind == FloatKind::f16) return half_to_float(half);
    const std::uint32_t bits = static_cast<std::uint32_t>(half) << 16;
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

// One batch: a block to a lane, [position][lane]. Lanes without a block hold zeros.
template <class F>
struct Batch {
    alignas(64) Lanes values[F::kColumns];
    alignas(64) Lanes weights[F::kColumns];
    std::uint8_t codes[kLanes][F::kColumns];

    void load(const GgmlEncoding& encoding, std::size_t first, int blocks) {
        float* lanes = reinterpret_cast<float*>(values);
        if (blocks < kLanes) std::memset(lanes, 0, sizeof values);
        for (int lane = 0; lane < blocks; ++lane) {
            const std::size_t start = (first + lane) * F::kColumns;
            switch (encoding.kind) {  // outside the loop, so that each loop knows its kind
                case FloatKind::f32: load_lane(lanes + lane, encoding.values, FloatKind::f32, start); break;
                case FloatKind::bf16: load_lane(lanes + lane, encoding.values, FloatKind::bf16, start); break;
                case FloatKind::f16: load_lane(lanes + lane, encoding.values, FloatKind::f16, start); break;
            }
        }
    }

    // As positive_weights of formats/ggml/importance.py.
    void load_weights(const GgmlEncoding& encoding, std::size_t first, int blocks) {
        float* lanes = reinterpret_cast<float*>(weights);
        if (blocks < kLanes) std::memset(lanes, 0, sizeof weights);
        for (int lane = 0; lane < blocks; ++lane) {
            const std::size_t start = (first + lane) * F::kColumns;
            const std::size_t row = start / encoding.columns;
            const float* source =
                encoding.importance + row * encoding.importance_stride + (start - row * encoding.columns);
            load_lane(lanes + lane, source, FloatKind::f32, 0);
        }
        const Lanes largest = largest_of(weights, F::kColumns);
        const Mask alive = less(zeros(), largest);
        const Lanes divisor = select(alive, largest, broadcast(1.0f));
        for (auto& weight : weights)
            weight = select(alive, larger(weight / divisor, broadcast(0x1p-30f)), broadcast(1.0f));
    }

    // Codes of positions [start, start + count) under a scale and, where the format has one, an offset.
    template <class Levels>
    void code(int start, int count, Lanes scale, [[maybe_unused]] Lanes offset) {
        const Lanes factor = inverse(scale);
        for (int i = start; i < start + count; ++i) {
            const Lanes shifted = F::kMinimum ? values[i] - offset : values[i];
            const Lanes level = Levels::nearest(shifted * factor);
            std::int32_t code[kLanes];
            const IntLanes integers = __builtin_convertvector(code_of(level), IntLanes);
            std::memcpy(code, &integers, sizeof code);
            for (int lane = 0; lane < kLanes; ++lane) codes[lane][i] = static_cast<std::uint8_t>(code[lane]);
        }
    }

private:
    static void load_lane(float* lane, const void* source, FloatKind kind, std::size_t start) {
        for (int i = 0; i < F::kColumns; ++i) lane[i * kLanes] = load_float(source, kind, start + i);
    }

    static Lanes code_of(Lanes level) {
        if constexpr (!F::kIq4) return level - broadcast(static_cast<float>(F::kZeroCode));
        Lanes code = zeros();
        for (int i = 0; i < 15; ++i)
            code = code + select(less(broadcast(Iq4::kLevels[i]), level), broadcast(1.0f), zeros());
        return code;
    }
};

inline float lane_of(Lanes values, int lane) { return values[lane]; }

template <class F, class Levels, bool weighted>
void encode_single(Batch<F>& batch, const Search& search, Fields* fields) {
    SingleChoice choice;
    if constexpr (F::kMinimum)
        choice = choose_affine<F, Levels, weighted>(batch.values, batch.weights, search.targets);
    else
        choice = choose_scale<F, Levels, weighted>(batch.values, batch.weights, search.targets);
    batch.template code<Levels>(0, F::kColumns, choice.scale, choice.minimum);
    for (int lane = 0; lane < kLanes; ++lane) {
        fields[lane].scale = half_bits(lane_of(choice.scale, lane));
        fields[lane].minimum = half_bits(lane_of(choice.minimum, lane));
    }
}

template <class F, class Levels, bool weighted>
void encode_nested(Batch<F>& batch, const Search& search, Fields* fields) {
    NestedChoice<F::kGroups> choice;
    Lanes sign = broadcast(1.0f);
    if constexpr (F::kMinimum)
        choice = NestedAffine<F, Levels, weighted>::choose(batch.values, batch.weights, search, sign);
    else
        choice = NestedScaled<F, Levels, weighted>::choose(batch.values, batch.weights, search);
    for (int group = 0; group < F::kGroups; ++group)
        batch.template code<Levels>(group * F::kGroup, F::kGroup, choice.scale * choice.subscale[group],
                                    zeros() - choice.minimum * choice.submin[group]);
    for (int lane = 0; lane < kLanes; ++lane) {
        fields[lane].scale = half_bits(lane_of(choice.scale * sign, lane));
        fields[lane].minimum = half_bits(lane_of(choice.minimum * sign, lane));
        for (int group = 0; group < F::kGroups; ++group) {
            fields[lane].subscale[group] = static_cast<std::int32_t>(lane_of(choice.subscale[group], lane));
            fields[lane].submin[group] = static_cast<std::int32_t>(lane_of(choice.submin[group], lane));
        }
    }
}

template <class F, bool weighted>
void encode_range(const GgmlEncoding& encoding, std::size_t begin, std::size_t end) {
    using Levels = std::conditional_t<F::kIq4, Iq4, IntegerLevels<F::kLow, F::kHigh>>;
    const Search search{{encoding.targets, encoding.target_count},
                        {encoding.block_targets, encoding.block_target_count}};
    Batch<F> batch;
    Fields fields[kLanes];
    for (std::size_t first = begin; first < end; first += kLanes) {
        const int blocks = end - first < kLanes ? static_cast<int>(end - first) : kLanes;
        batch.load(encoding, first, blocks);
        if constexpr (weighted) batch.load_weights(encoding, first, blocks);
        if constexpr (F::kNested)
            encode_nested<F, Levels, weighted>(batch, search, fields);
        else
            encode_single<F, Levels, weighted>(batch, search, fields);
        for (int lane = 0; lane < blocks; ++lane) {
            std::memcpy(fields[lane].codes, batch.codes[lane], F::kColumns);
            F::write(fields[lane], encoding.blocks + (first + lane) * F::kBytes);
        }
    }
}

// Call `action` with the format of a ggml type number.
template <class Action>
bool with_format(int type, const Action& action) {
    switch (type) {
        case 2: action(Q4_0{}); return true;
        case 3: action(Q4_1{}); return true;
        case 6: action(Q5_0{}); return true;
        case 7: action(Q5_1{}); return true;
        case 8: action(Q8_0{}); return true;
        case 10: action(Q2K{}); return true;
        case 11: action(Q3K{}); return true;
        case 12: action(Q4K{}); return true;
        case 13: action(Q5K{}); return true;
        case 14: action(Q6K{}); return true;
        case 20: action(Iq4Nl{}); return true;
        case 23: action(Iq4Xs{}); return true;
        default: return false;
    }
}

bool block_layout(int type, std::size_t& columns, std::size_t& bytes) {
    return with_format(type, [&](auto format) {
        columns = decltype(format)::kColumns;
        bytes = decltype(format)::kBytes;
    });
}

bool encode_ggml(int type, const GgmlEncoding& encoding, std::size_t begin, std::size_t end) {
    return with_format(type, [&](auto format) {
        using F = decltype(format);
        if (encoding.importance != nullptr)
            encode_range<F, true>(encoding, begin, end);
        else
            encode_range<F, false>(encoding, begin, end);
    });
}

bool decode_ggml(int type, const std::uint8_t* blocks, std::size_t count, float* out) {
    return with_format(type, [&](auto format) {
        using F = decltype(format);
        for (std::size_t block = 0; block < count; ++block)
            decode_block<F>(blocks + block * F::kBytes, out + block * F::kColumns);
    });
}

// The bits of floats without sign are in the order of their magnitudes, NaN above infinity.
float largest_magnitude(const void* values, FloatKind kind, std::size_t count) {
    std::uint32_t largest = 0;
    if (kind == FloatKind::f32) {
        const auto* words = static_cast<const std::uint32_t*>(values);
        for (std::size_t i = 0; i < count; ++i) {
            const std::uint32_t magnitude_bits = words[i] & 0x7fffffffu;
            largest = magnitude_bits > largest ? magnitude_bits : largest;
        }
    } else {
        const auto* halves = static_cast<const std::uint16_t*>(values);
        std::uint16_t top = 0;
        for (std::size_t i = 0; i < count; ++i) {
            const auto magnitude_bits = static_cast<std::uint16_t>(halves[i] & 0x7fffu);
            top = magnitude_bits > top ? magnitude_bits : top;
        }
        return load_float(&top, kind, 0);
    }
    float value;
    std::memcpy(&value, &largest, sizeof value);
    return value;
}

#define HALFPINT_STRINGIZE_(x) #x
#define HALFPINT_STRINGIZE(x) HALFPINT_STRINGIZE_(x)
constexpr EncodeKernels kKernels{HALFPINT_STRINGIZE(HALFPINT_ISA), block_layout, encode_ggml, decode_ggml, largest_magnitude};
}  // namespace

const EncodeKernels& encode_kernels();
const EncodeKernels& encode_kernels() { return kKernels; }

}  // namespace halfpint::HALFPINT_ISA
