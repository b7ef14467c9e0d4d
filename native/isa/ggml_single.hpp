// Blocks with one scale, one block to a lane: formats/ggml/single.py, operation by operation.
#pragma once
#include "isa/fitting.hpp"

namespace halfpint::HALFPINT_ISA {
namespace {

constexpr int kSingleScaleRounds = 2;
constexpr int kSingleAffineRounds = 3;
constexpr int kSingleAffineFitRounds = 2;

struct SingleChoice {
    Lanes scale = zeros();
    Lanes minimum = zeros();
};

template <class F, class Levels, bool weighted>
inline SingleChoice choose_scale(const Lanes* values, const Lanes* weights, Targets targets) {
    constexpr int count = F::kGroup;
    constexpr float extreme = -F::kLow >= F::kHigh ? F::kLow : F::kHigh;
    SingleChoice found;
    Lanes best = energy<weighted>(values, weights, count);
    Lanes candidate = to_live_half(fit_scale<Levels, weighted>(values, weights, count, targets).scale);
    for (int attempt = 0; attempt <= kSingleScaleRounds; ++attempt) {
        if (attempt == kSingleScaleRounds) candidate = to_live_half(peak(values, count) / broadcast(extreme));
        const ScaleSums sums = scale_sums<Levels, weighted>(values, weights, count, candidate);
        const Mask better = less(sums.error, best);
        best = select(better, sums.error, best);
        found.scale = select(better, candidate, found.scale);
        candidate = to_half(candidate + ratio(sums.error_level, sums.level_level));
    }
    return found;
}

template <class F, class Levels, bool weighted>
inline SingleChoice choose_affine(const Lanes* values, const Lanes* weights, Targets targets) {
    constexpr int count = F::kGroup;
    const Lanes weight_sum = weight_total<weighted>(weights, count);
    SingleChoice found;
    Lanes best = energy<weighted>(values, weights, count);
    const FittedAffine fitted =
        fit_affine<Levels, weighted, false>(values, weights, count, targets, kSingleAffineFitRounds);
    Lanes slope = to_live_half(fitted.scale);
    Lanes offset = to_half(fitted.offset);
    for (int attempt = 0; attempt <= kSingleAffineRounds; ++attempt) {
        if (attempt == kSingleAffineRounds) {
            const Lanes low = smallest_of(values, count);
            slope = to_live_half((largest_of(values, count) - low) / broadcast(F::kHigh));
            offset = to_half(low);
        }
        const AffineSums sums = affine_sums<Levels, weighted>(values, weights, count, slope, offset);
        const Mask better = less(sums.error, best);
        best = select(better, sums.error, best);
        found.scale = select(better, slope, found.scale);
        found.minimum = select(better, offset, found.minimum);
        const Lanes rounded = to_half(slope + affine_step(sums, weight_sum));
        offset = to_half(offset + ratio(sums.error_one - sums.level_one * (rounded - slope), weight_sum));
        slope = rounded;
    }
    return found;
}

}  // namespace
}  // namespace halfpint::HALFPINT_ISA
