// Scales for groups of weights by weighted least squares from many starts, one group to a lane: the same operations
// in the same order as formats/ggml/fitting.py, which explains them.
#pragma once
#include "isa/lanes.hpp"

namespace halfpint::HALFPINT_ISA {
namespace {

// The integers from low to high; ties to even.
template <int low, int high>
struct IntegerLevels {
    static Lanes nearest(Lanes values) {
        return round_even(clamp(values, static_cast<float>(low), static_cast<float>(high)));
    }
};

// The sixteen levels of iq4_nl and iq4_xs; ties to the lower one.
struct Iq4 {
    static constexpr float kLevels[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};
    // Middles between neighbours; the last entry is beyond every value.
    static constexpr float kMiddles[16] = {-115.5f, -93.5f, -74, -57, -42, -28.5f, -16, -4.5f,
                                           7,       19,     31.5f, 45.5f, 61, 79, 101, 3.4e38f};
    static Lanes nearest(Lanes values) {
#if defined(__AVX512F__)
        // Binary search with the sixteen middles in one register.
        const __m512 middles = _mm512_loadu_ps(kMiddles);
        const __m512i one = _mm512_set1_epi32(1);
        __m512i index = _mm512_maskz_set1_epi32(_mm512_cmp_ps_mask(values, broadcast(kMiddles[7]), _CMP_GT_OQ), 8);
        for (int step = 4; step >= 1; step /= 2) {
            const __m512i probe = _mm512_add_epi32(index, _mm512_set1_epi32(step - 1));
            const Mask above = _mm512_cmp_ps_mask(values, _mm512_maskz_permutexvar_ps(0xffff, probe, middles), _CMP_GT_OQ);
            index = _mm512_mask_add_epi32(index, above, probe, one);
        }
        return _mm512_maskz_permutexvar_ps(0xffff, index, _mm512_loadu_ps(kLevels));
#else
        Lanes level = broadcast(kLevels[0]);
        for (int i = 0; i < 15; ++i) {
            const Mask above = less(broadcast(kMiddles[i]), values);
            level = level + select(above, broadcast(kLevels[i + 1] - kLevels[i]), zeros());
        }
        return level;
#endif
    }
};

// Sums over a group's positions; without weights a factor of one is left out, which changes no bit.
struct ScaleSums {
    Lanes error = zeros();
    Lanes error_level = zeros();
    Lanes level_level = zeros();
};

template <class Levels, bool weighted>
inline ScaleSums scale_sums(const Lanes* values, const Lanes* weights, int count, Lanes scale) {
    const Lanes factor = inverse(scale);
    ScaleSums sums;
    for (int i = 0; i < count; ++i) {
        const Lanes level = Levels::nearest(values[i] * factor);
        const Lanes error = values[i] - scale * level;
        const Lanes weighted_error = weighted ? weights[i] * error : error;
        const Lanes weighted_level = weighted ? weights[i] * level : level;
        sums.error = sums.error + weighted_error * error;
        sums.error_level = sums.error_level + weighted_error * level;
        sums.level_level = sums.level_level + weighted_level * level;
    }
    return sums;
}

struct AffineSums {
    Lanes error = zeros();
    Lanes error_level = zeros();
    Lanes error_one = zeros();
    Lanes level_level = zeros();
    Lanes level_one = zeros();
};

template <class Levels, bool weighted>
inline AffineSums affine_sums(const Lanes* values, const Lanes* weights, int count, Lanes scale, Lanes offset) {
    const Lanes factor = inverse(scale);
    AffineSums sums;
    for (int i = 0; i < count; ++i) {
        const Lanes level = Levels::nearest((values[i] - offset) * factor);
        const Lanes error = values[i] - (scale * level + offset);
        const Lanes weighted_error = weighted ? weights[i] * error : error;
        const Lanes weighted_level = weighted ? weights[i] * level : level;
        sums.error = sums.error + weighted_error * error;
        sums.error_level = sums.error_level + weighted_error * level;
        sums.error_one = sums.error_one + weighted_error;
        sums.level_level = sums.level_level + weighted_level * level;
        sums.level_one = sums.level_one + weighted_level;
    }
    return sums;
}

template <bool weighted>
inline Lanes weight_total(const Lanes* weights, int count) {
    if constexpr (!weighted) return broadcast(static_cast<float>(count));
    Lanes sum = zeros();
    for (int i = 0; i < count; ++i) sum = sum + weights[i];
    return sum;
}

template <bool weighted>
inline Lanes energy(const Lanes* values, const Lanes* weights, int count) {
    Lanes sum = zeros();
    for (int i = 0; i < count; ++i) sum = sum + (weighted ? weights[i] * values[i] : values[i]) * values[i];
    return sum;
}

// Starts of a search, in levels.
struct Targets {
    const float* values;
    int count;
};

struct FittedScale {
    Lanes scale = zeros();
    Lanes curvature = zeros();
};

template <class Levels, bool weighted>
inline FittedScale fit_scale(const Lanes* values, const Lanes* weights, int count, Targets targets) {
    const Lanes top = peak(values, count);
    Lanes best = energy<weighted>(values, weights, count);
    FittedScale found;
    for (int target = 0; target < targets.count; ++target) {
        const Lanes start = top * broadcast(1.0f / targets.values[target]);
        const ScaleSums sums = scale_sums<Levels, weighted>(values, weights, count, start);
        const Lanes step = ratio(sums.error_level, sums.level_level);
        const Lanes error = sums.error - step * sums.error_level;
        const Mask better = both(less(error, best), less(zeros(), sums.level_level));
        best = select(better, error, best);
        found.scale = select(better, start + step, found.scale);
        found.curvature = select(better, sums.level_level, found.curvature);
    }
    return found;
}

constexpr float kLeastSpread = 0x1p-16f;

inline Lanes affine_step(const AffineSums& sums, Lanes weight_sum) {
    const Lanes product = weight_sum * sums.level_level;
    const Lanes determinant = product - sums.level_one * sums.level_one;
    const Mask determined = less(product * broadcast(kLeastSpread), determinant);
    const Lanes numerator = weight_sum * sums.error_level - sums.level_one * sums.error_one;
    return ratio(numerator, select(determined, determinant, zeros()));
}

struct FittedAffine {
    Lanes scale = zeros();
    Lanes offset = zeros();
    Lanes level_level = zeros();
    Lanes level_one = zeros();
};

// Best scale and offset for fixed codes, replacing those given; returns their error. With a ceiling, an offset above
// it is put on it, and the scale fitted to what that leaves.
template <bool has_ceiling>
inline Lanes least_squares(const AffineSums& sums, Lanes weight_sum, Lanes ceiling, Lanes& scale, Lanes& offset) {
    const Lanes step = affine_step(sums, weight_sum);
    const Lanes shift = ratio(sums.error_one - sums.level_one * step, weight_sum);
    const Lanes error = (sums.error - step * sums.error_level) - shift * sums.error_one;
    if constexpr (!has_ceiling) {
        scale = scale + step;
        offset = offset + shift;
        return error;
    }
    const Mask over = less(ceiling, offset + shift);
    const Lanes pinned_shift = select(over, ceiling - offset, zeros());
    const Lanes rest = sums.error_level - pinned_shift * sums.level_one;
    const Lanes pinned_step = ratio(rest, sums.level_level);
    const Lanes twice = pinned_shift + pinned_shift;
    const Lanes pinned_error =
        ((sums.error - twice * sums.error_one) + (pinned_shift * pinned_shift) * weight_sum) - pinned_step * rest;
    scale = scale + select(over, pinned_step, step);
    offset = select(over, ceiling, offset + shift);
    return select(over, pinned_error, error);
}

// At most 32 positions.
template <class Levels, bool weighted, bool nonpositive>
inline FittedAffine fit_affine(const Lanes* values, const Lanes* weights, int count, Targets targets, int rounds) {
    Lanes low = smallest_of(values, count);
    if constexpr (nonpositive) low = smaller(low, zeros());
    const Lanes span = largest_of(values, count) - low;
    const Lanes weight_sum = weight_total<weighted>(weights, count);
    Lanes shifted[32];
    for (int i = 0; i < count; ++i) shifted[i] = values[i] - low;
    const Lanes ceiling = zeros() - low;
    Lanes best = broadcast(__builtin_inff());
    FittedAffine found;
    found.offset = low;
    for (int target = 0; target < targets.count; ++target) {
        Lanes scale = span * broadcast(1.0f / targets.values[target]);
        Lanes offset = zeros();
        for (int round = 0; round < rounds; ++round) {
            const AffineSums sums = affine_sums<Levels, weighted>(shifted, weights, count, scale, offset);
            const Lanes error = least_squares<nonpositive>(sums, weight_sum, ceiling, scale, offset);
            const Mask better = less(error, best);
            best = select(better, error, best);
            found.scale = select(better, scale, found.scale);
            found.offset = select(better, offset + low, found.offset);
            found.level_level = select(better, sums.level_level, found.level_level);
            found.level_one = select(better, sums.level_one, found.level_one);
        }
    }
    return found;
}

}  // namespace
}  // namespace halfpint::HALFPINT_ISA
