#include "isa/groups.hpp"

#include <algorithm>

#include "formats/ggml_blocks.hpp"
#include "isa/group_levels.hpp"

namespace halfpint::HALFPINT_ISA {
namespace {

constexpr std::size_t kPiece = 256;  // weights widened to float32 at a time

inline float bits_to_float(std::uint32_t bits) {
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

// `count` weights from `start` as float32: where they are, or in `buffer`.
inline const float* widen(const GroupEncoding& encoding, std::size_t start, std::size_t count, float* buffer) {
    if (encoding.kind == FloatKind::f32) return static_cast<const float*>(encoding.values) + start;
    const std::uint16_t* words = static_cast<const std::uint16_t*>(encoding.values) + start;
    if (encoding.kind == FloatKind::bf16) {
        for (std::size_t i = 0; i < count; ++i) buffer[i] = bits_to_float(static_cast<std::uint32_t>(words[i]) << 16);
    } else {
        for (std::size_t i = 0; i < count; ++i) buffer[i] = half_to_float(words[i]);
    }
    return buffer;
}

// The largest power of two not above each magnitude, between 2^-126 and 2^126; 1 for 0.
inline Lanes power_of_two(Lanes magnitudes) {
    const Lanes limited = clamp(magnitudes, 0x1p-126f, 0x1p126f);
    const Lanes powers = from_bits(bits_of(limited) & 0x7f800000);
    return select(equal(magnitudes, zeros()), broadcast(1.0f), powers);
}

inline Lanes to_bfloat(Lanes values) {
    const IntLanes bits = bits_of(values);
    return from_bits((bits + 0x7fff + ((bits >> 16) & 1)) & ~0xffff);
}

inline Lanes with_sign_of(Lanes values, Lanes signs) {
    const std::int32_t sign = static_cast<std::int32_t>(0x80000000u);
    return from_bits((bits_of(values) & 0x7fffffff) | (bits_of(signs) & sign));
}

// A group to a lane: the arithmetic of Groups, Best and the fits in formats/search.py.
template <class Levels, bool weighted>
class Batch {
public:
    Batch(const GroupEncoding& encoding, float* scratch)
        : encoding_(encoding),
          x_(reinterpret_cast<Lanes*>(scratch)),
          size_(encoding.group_rows * encoding.group_columns),
          h_(reinterpret_cast<Lanes*>(scratch) + size_),
          low_(broadcast(encoding.lowest)),
          high_(broadcast(encoding.highest)) {}

    void encode(std::size_t first, std::size_t count) {
        first_ = first;
        count_ = count;
        load();
        normalize();
        best_scale_ = broadcast(1.0f);
        best_zero_ = zeros();
        best_error_ = broadcast(bits_to_float(0x7f800000u));
        fit();
        write();
    }

private:
    // The rectangle of weights that share a scale.
    struct Place {
        std::size_t row;
        std::size_t column;
        std::size_t height;
        std::size_t width;
    };

    Place place(std::size_t group) const {
        const std::size_t across = (encoding_.columns + encoding_.group_columns - 1) / encoding_.group_columns;
        const std::size_t row = group / across * encoding_.group_rows;
        const std::size_t column = group % across * encoding_.group_columns;
        return {row, column, std::min(encoding_.group_rows, encoding_.rows - row),
                std::min(encoding_.group_columns, encoding_.columns - column)};
    }

    static void scatter(const float* values, std::size_t count, float* lane) {
        for (std::size_t i = 0; i < count; ++i) lane[i * kLanes] = values[i];
    }

    void load() {
        float* x = reinterpret_cast<float*>(x_);
        float* h = reinterpret_cast<float*>(h_);
        alignas(64) float buffer[kPiece];
        for (std::size_t lane = 0; lane < kLanes; ++lane) {
            std::size_t filled = 0;
            const Place at = lane < count_ ? place(first_ + lane) : Place{};
            for (std::size_t row = at.row; row < at.row + at.height; ++row) {
                const std::size_t start = row * encoding_.columns + at.column;
                if constexpr (weighted)
                    scatter(encoding_.importance + row * encoding_.importance_stride + at.column, at.width,
                            h + filled * kLanes + lane);
                for (std::size_t piece = 0; piece < at.width; piece += kPiece) {
                    const std::size_t length = std::min(kPiece, at.width - piece);
                    scatter(widen(encoding_, start + piece, length, buffer), length, x + filled * kLanes + lane);
                    filled += length;
                }
            }
            // Zeros add nothing to any sum.
            for (std::size_t i = filled; i < size_; ++i) x[i * kLanes + lane] = 0;
            if constexpr (weighted)
                for (std::size_t i = filled; i < size_; ++i) h[i * kLanes + lane] = 0;
        }
    }

    void normalize() {
        if constexpr (weighted) {
            Lanes largest = h_[0];
            for (std::size_t i = 1; i < size_; ++i) largest = larger(largest, h_[i]);
            const Mask dead = equal(largest, zeros());
            const Lanes factor = broadcast(1.0f) / power_of_two(select(dead, broadcast(1.0f), largest));
            for (std::size_t i = 0; i < size_; ++i) {
                const Lanes h = select(dead, broadcast(1.0f), h_[i]);
                x_[i] = select(equal(h, zeros()), zeros(), x_[i]);
                h_[i] = h * factor;
            }
        }
        Lanes largest = magnitude(x_[0]);
        for (std::size_t i = 1; i < size_; ++i) largest = larger(largest, magnitude(x_[i]));
        empty_ = equal(largest, zeros());
        unit_ = power_of_two(largest);
        inverse_unit_ = broadcast(1.0f) / unit_;
        for (std::size_t i = 0; i < size_; ++i) x_[i] = x_[i] * inverse_unit_;
    }

    Lanes store(Lanes scale) const {
        const Lanes wanted = magnitude(scale) * unit_;
        if (encoding_.scale_kind == GroupScale::shared_e4m3) {
            const Lanes shared = broadcast(encoding_.shared_scale);
            return smaller(shared_e4m3(wanted) / shared * inverse_unit_, broadcast(0x1p64f));
        }
        Lanes rounded = wanted;
        if (encoding_.scale_kind == GroupScale::f16) rounded = to_half(wanted);
        if (encoding_.scale_kind == GroupScale::bf16) rounded = to_bfloat(wanted);
        const Lanes kept = clamp(rounded, encoding_.smallest_scale, encoding_.largest_scale) * inverse_unit_;
        return with_sign_of(kept, scale);
    }

    Lanes shared_e4m3(Lanes scale) const {
        const Lanes wanted = scale * broadcast(encoding_.shared_scale);
        const Lanes limited = clamp(wanted, encoding_.smallest_scale, encoding_.largest_scale);
        return E4m3::nearest(limited, limited, limited);
    }

    void consider(Lanes scale, Lanes zero) {
        const Lanes factor = broadcast(1.0f) / scale;
        const Lanes low = low_ - zero, high = high_ - zero;
        Lanes error = zeros();
        for (std::size_t i = 0; i < size_; ++i) {
            const Lanes level = Levels::nearest(x_[i] * factor, low, high);
            const Lanes difference = x_[i] - scale * level;
            error = error + (weighted ? h_[i] * difference : difference) * difference;
        }
        const Mask better = less(error, best_error_);
        best_scale_ = select(better, scale, best_scale_);
        best_zero_ = select(better, zero, best_zero_);
        best_error_ = select(better, error, best_error_);
    }

    Lanes refit() const {
        const Lanes factor = broadcast(1.0f) / best_scale_;
        const Lanes low = low_ - best_zero_, high = high_ - best_zero_;
        Lanes products = zeros(), norms = zeros();
        for (std::size_t i = 0; i < size_; ++i) {
            const Lanes level = Levels::nearest(x_[i] * factor, low, high);
            products = products + (weighted ? h_[i] * x_[i] : x_[i]) * level;
            norms = norms + (weighted ? h_[i] * level : level) * level;
        }
        const Mask known = both(less(zeros(), norms), less(zeros(), products * best_scale_));
        return select(known, products / select(known, norms, broadcast(1.0f)), best_scale_);
    }

    void fit() {
        const Lanes zero = zeros(), high = broadcast(encoding_.highest);
        Lanes peak = x_[0], minimum = smaller(zero, x_[0]), maximum = larger(zero, x_[0]);
        for (std::size_t i = 1; i < size_; ++i) {
            peak = select(less(magnitude(peak), magnitude(x_[i])), x_[i], peak);
            minimum = smaller(minimum, x_[i]);
            maximum = larger(maximum, x_[i]);
        }
        const Lanes top = magnitude(peak) / broadcast(Levels::kTop);
        const Lanes power = from_bits(bits_of(magnitude(peak)) & 0x7f800000);
        for (int start = 0; start < encoding_.start_count; ++start) {
            const Lanes first = broadcast(encoding_.starts[start].first);
            const Lanes second = broadcast(encoding_.starts[start].second);
            switch (encoding_.start_kind) {
                case StartKind::peak: consider(store(peak / first), zero); break;
                case StartKind::top: consider(store(top * first), zero); break;
                case StartKind::power: consider(store(power * first), zero); break;
                case StartKind::range: {
                    const Lanes bottom = minimum * first;
                    const Lanes scale = store((maximum * second - bottom) / high);
                    consider(scale, round_even(smaller(larger((zero - bottom) / scale, zero), high)));
                }
            }
        }
        Lanes centre = best_scale_, middle = best_zero_;
        for (int step = 0; step < encoding_.step_count; ++step) {
            const GroupStep& around = encoding_.steps[step];
            if (step > 0 && around.round != encoding_.steps[step - 1].round) {
                centre = best_scale_;
                middle = best_zero_;
            }
            const Lanes moved = smaller(larger(middle + broadcast(around.offset), zero), high);
            consider(store(centre * broadcast(around.factor)), encoding_.start_kind == StartKind::range ? moved : zero);
        }
        for (int i = 0; i < encoding_.refits; ++i) consider(store(refit()), best_zero_);
    }

    void write() {
        const Lanes scale = select(empty_, store(inverse_unit_), best_scale_);
        const Lanes zero = select(empty_, zeros(), best_zero_);
        const Lanes inverse_scale = broadcast(1.0f) / scale;
        write_scales(scale, zero);
        alignas(64) float buffer[kPiece];
        // Vectors run along the row here; each element meets the same operations as in its lane.
        for (std::size_t lane = 0; lane < count_; ++lane) {
            const Place at = place(first_ + lane);
            RowCoding coding{nullptr,          0,           inverse_unit_[lane], inverse_scale[lane], encoding_.lowest,
                             encoding_.highest, zero[lane], nullptr};
            for (std::size_t row = at.row; row < at.row + at.height; ++row) {
                for (std::size_t piece = 0; piece < at.width; piece += kPiece) {
                    const std::size_t start = row * encoding_.columns + at.column + piece;
                    coding.count = std::min(kPiece, at.width - piece);
                    coding.values = widen(encoding_, start, coding.count, buffer);
                    coding.codes = encoding_.codes + start;
                    Levels::code(coding);
                }
            }
        }
    }

    void write_scales(Lanes scale, Lanes zero) const {
        const Lanes stored = encoding_.scale_kind == GroupScale::shared_e4m3 ? shared_e4m3(scale * unit_) : scale * unit_;
        for (std::size_t lane = 0; lane < count_; ++lane) {
            const std::size_t group = first_ + lane;
            const float value = stored[lane];
            std::uint32_t bits;
            std::memcpy(&bits, &value, sizeof bits);
            auto* bytes = static_cast<std::uint8_t*>(encoding_.scales);
            auto* words = static_cast<std::uint16_t*>(encoding_.scales);
            switch (encoding_.scale_kind) {
                case GroupScale::f16: words[group] = half_bits(value); break;
                case GroupScale::bf16: words[group] = static_cast<std::uint16_t>(bits >> 16); break;
                case GroupScale::f32: static_cast<float*>(encoding_.scales)[group] = value; break;
                case GroupScale::e8m0: bytes[group] = static_cast<std::uint8_t>(bits >> 23); break;
                case GroupScale::shared_e4m3: bytes[group] = E4m3::code_of(value); break;
            }
            if (encoding_.zero_points != nullptr)
                encoding_.zero_points[group] = static_cast<std::uint8_t>(static_cast<int>(zero[lane]));
        }
    }

    const GroupEncoding& encoding_;
    Lanes* x_;
    std::size_t size_;
    Lanes* h_;
    Lanes low_, high_;
    Lanes unit_{}, inverse_unit_{};
    Lanes best_scale_{}, best_zero_{}, best_error_{};
    Mask empty_{};
    std::size_t first_ = 0, count_ = 0;
};

template <class Levels>
void encode_groups(const GroupEncoding& encoding, std::size_t begin, std::size_t end, float* scratch) {
    const auto run = [&](auto batch) {
        for (std::size_t first = begin; first < end; first += kLanes)
            batch.encode(first, std::min<std::size_t>(kLanes, end - first));
    };
    if (encoding.importance != nullptr)
        run(Batch<Levels, true>(encoding, scratch));
    else
        run(Batch<Levels, false>(encoding, scratch));
}

void encode(const GroupEncoding& encoding, std::size_t begin, std::size_t end, float* scratch) {
    switch (encoding.code_kind) {
        case CodeKind::integers: return encode_groups<Integers>(encoding, begin, end, scratch);
        case CodeKind::nf4: return encode_groups<TableLevels<Nf4>>(encoding, begin, end, scratch);
        case CodeKind::e2m1: return encode_groups<TableLevels<E2m1>>(encoding, begin, end, scratch);
        case CodeKind::e4m3: return encode_groups<E4m3>(encoding, begin, end, scratch);
    }
}

void decode(const GroupDecoding& decoding, std::size_t first_row, std::size_t last_row) {
    const std::size_t groups = (decoding.columns + decoding.group_columns - 1) / decoding.group_columns;
    for (std::size_t row = first_row; row < last_row; ++row) {
        for (std::size_t group = 0; group < groups; ++group) {
            const std::size_t scale_index = row / decoding.group_rows * groups + group;
            const float scale = decoding.scales[scale_index];
            const float zero = decoding.zero_points != nullptr ? decoding.zero_points[scale_index] : 0.0f;
            const std::size_t column = group * decoding.group_columns;
            const std::size_t length = std::min(decoding.group_columns, decoding.columns - column);
            const std::uint8_t* codes = decoding.codes + row * decoding.columns + column;
            float* out = decoding.out + row * decoding.columns + column;
            for (std::size_t i = 0; i < length; ++i) out[i] = (decoding.values[codes[i]] - zero) * scale;
        }
    }
}

#define HALFPINT_STRINGIZE_(x) #x
#define HALFPINT_STRINGIZE(x) HALFPINT_STRINGIZE_(x)
constexpr GroupKernels kKernels{HALFPINT_STRINGIZE(HALFPINT_ISA), kLanes, encode, decode};
}  // namespace

const GroupKernels& group_kernels();
const GroupKernels& group_kernels() { return kKernels; }

}  // namespace halfpint::HALFPINT_ISA
