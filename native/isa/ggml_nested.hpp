// Blocks of groups with integer sub-scales, one block to a lane: formats/ggml/nested.py, operation by operation.
#pragma once
#include "isa/fitting.hpp"

namespace halfpint::HALFPINT_ISA {
namespace {

constexpr int kNestedRounds = 2;
constexpr int kNestedAffineFitRounds = 3;

struct Search {
    Targets targets;
    Targets block_targets;
};

template <int groups>
struct NestedChoice {
    Lanes scale = zeros();
    Lanes minimum = zeros();
    Lanes subscale[groups] = {};
    Lanes submin[groups] = {};
};

// The block scale whose integer multiples come nearest to the wanted group scales.
template <class Integers, int groups>
inline Lanes block_scale(const Lanes* wanted, const Lanes* curvature, Targets targets) {
    const Lanes top = peak(wanted, groups);
    Lanes best = broadcast(__builtin_inff());
    Lanes found = zeros();
    for (int target = 0; target < targets.count; ++target) {
        const Lanes scale = to_live_half(top * broadcast(1.0f / targets.values[target]));
        const Lanes factor = inverse(scale);
        Lanes error = zeros();
        for (int group = 0; group < groups; ++group) {
            const Lanes miss = wanted[group] - scale * Integers::nearest(wanted[group] * factor);
            error = error + (curvature[group] * miss) * miss;
        }
        const Mask better = less(error, best);
        best = select(better, error, best);
        found = select(better, scale, found);
    }
    return found;
}

template <int groups>
inline void keep_better(Mask better, const NestedChoice<groups>& choice, NestedChoice<groups>& found) {
    found.scale = select(better, choice.scale, found.scale);
    found.minimum = select(better, choice.minimum, found.minimum);
    for (int group = 0; group < groups; ++group) {
        found.subscale[group] = select(better, choice.subscale[group], found.subscale[group]);
        found.submin[group] = select(better, choice.submin[group], found.submin[group]);
    }
}

template <class F, class Levels, bool weighted>
struct NestedScaled {
    static constexpr int kCount = F::kGroup;
    static constexpr int kGroups = F::kGroups;
    using Integers = IntegerLevels<F::kSubLow, F::kSubHigh>;
    using Choice = NestedChoice<kGroups>;

    static Choice choose(const Lanes* values, const Lanes* weights, const Search& search) {
        Lanes best = zeros();
        Lanes scales[kGroups], curvatures[kGroups];
        for (int group = 0; group < kGroups; ++group) {
            const int start = group * kCount;
            best = best + energy<weighted>(values + start, weights + start, kCount);
            const FittedScale fitted =
                fit_scale<Levels, weighted>(values + start, weights + start, kCount, search.targets);
            scales[group] = fitted.scale;
            curvatures[group] = fitted.curvature;
        }
        Choice found, choice;
        choice.scale = block_scale<Integers, kGroups>(scales, curvatures, search.block_targets);
        divide(scales, choice);
        constexpr int neighbours[3] = {0, -1, 1};
        for (int round = 0; round < kNestedRounds; ++round) best = attempt(values, weights, neighbours, 3, choice, found, best);
        for (int group = 0; group < kGroups; ++group)
            scales[group] = peak(values + group * kCount, kCount) / broadcast(F::kLow);
        choice.scale = to_live_half(peak(scales, kGroups) / broadcast(F::kSubLow));
        divide(scales, choice);
        attempt(values, weights, neighbours, 1, choice, found, best);
        return found;
    }

private:
    static void divide(const Lanes* scales, Choice& choice) {
        const Lanes factor = inverse(choice.scale);
        for (int group = 0; group < kGroups; ++group) choice.subscale[group] = Integers::nearest(scales[group] * factor);
    }

    // Let each group take its best neighbour, keep the choice where it is the best so far, then refit its scale.
    static Lanes attempt(const Lanes* values, const Lanes* weights, const int* neighbours, int count, Choice& choice,
                         Choice& found, Lanes best) {
        Lanes error = zeros(), gain = zeros(), curvature = zeros();
        for (int group = 0; group < kGroups; ++group) {
            const int start = group * kCount;
            ScaleSums sums;
            sums.error = broadcast(__builtin_inff());
            Lanes integer = zeros();
            for (int n = 0; n < count; ++n) {
                const Lanes tried = clamp(choice.subscale[group] + broadcast(static_cast<float>(neighbours[n])),
                                          F::kSubLow, F::kSubHigh);
                const ScaleSums those =
                    scale_sums<Levels, weighted>(values + start, weights + start, kCount, choice.scale * tried);
                const Mask better = less(those.error, sums.error);
                sums.error = select(better, those.error, sums.error);
                sums.error_level = select(better, those.error_level, sums.error_level);
                sums.level_level = select(better, those.level_level, sums.level_level);
                integer = select(better, tried, integer);
            }
            choice.subscale[group] = integer;
            error = error + sums.error;
            gain = gain + integer * sums.error_level;
            curvature = curvature + (integer * integer) * sums.level_level;
        }
        const Mask better = less(error, best);
        keep_better(better, choice, found);
        choice.scale = to_half(choice.scale + ratio(gain, curvature));
        return select(better, error, best);
    }
};

template <class F, class Levels, bool weighted>
struct NestedAffine {
    static constexpr int kCount = F::kGroup;
    static constexpr int kGroups = F::kGroups;
    using Integers = IntegerLevels<F::kSubLow, F::kSubHigh>;
    using Choice = NestedChoice<kGroups>;

    // Turns the sign of `values` where all of a block's are positive; `sign` tells where.
    static Choice choose(Lanes* values, const Lanes* weights, const Search& search, Lanes& sign) {
        const Lanes low = smallest_of(values, kCount * kGroups);
        sign = select(less(zeros(), low), broadcast(-1.0f), broadcast(1.0f));
        for (int i = 0; i < kCount * kGroups; ++i) values[i] = values[i] * sign;
        Lanes best = zeros();
        Lanes weight_sums[kGroups];
        for (int group = 0; group < kGroups; ++group) {
            const int start = group * kCount;
            best = best + energy<weighted>(values + start, weights + start, kCount);
            weight_sums[group] = weight_total<weighted>(weights + start, kCount);
        }
        Choice found;
        Choice choice = first_choice(values, weights, weight_sums, search);
        for (int round = 0; round < kNestedRounds; ++round)
            best = attempt(values, weights, weight_sums, 7, choice, found, best);
        choice = plain_choice(values, sign);
        attempt(values, weights, weight_sums, 1, choice, found, best);
        return found;
    }

private:
    static Choice first_choice(const Lanes* values, const Lanes* weights, const Lanes* weight_sums,
                               const Search& search) {
        Lanes scales[kGroups], offsets[kGroups], curvatures[kGroups], mean_levels[kGroups];
        for (int group = 0; group < kGroups; ++group) {
            const int start = group * kCount;
            const FittedAffine fitted = fit_affine<Levels, weighted, true>(values + start, weights + start, kCount,
                                                                           search.targets, kNestedAffineFitRounds);
            scales[group] = fitted.scale;
            offsets[group] = fitted.offset;
            mean_levels[group] = ratio(fitted.level_one, weight_sums[group]);
            curvatures[group] = larger(fitted.level_level - fitted.level_one * mean_levels[group], zeros());
        }
        Choice choice;
        choice.scale = block_scale<Integers, kGroups>(scales, curvatures, search.block_targets);
        const Lanes factor = inverse(choice.scale);
        Lanes depths[kGroups];
        for (int group = 0; group < kGroups; ++group) {
            choice.subscale[group] = Integers::nearest(scales[group] * factor);
            const Lanes moved =
                offsets[group] - mean_levels[group] * (choice.scale * choice.subscale[group] - scales[group]);
            depths[group] = larger(zeros() - moved, zeros());
        }
        choice.minimum = block_scale<Integers, kGroups>(depths, weight_sums, search.block_targets);
        const Lanes minimum_factor = inverse(choice.minimum);
        for (int group = 0; group < kGroups; ++group)
            choice.submin[group] = Integers::nearest(depths[group] * minimum_factor);
        return choice;
    }

    static Choice plain_choice(const Lanes* values, Lanes sign) {
        Lanes wanted[kGroups], depths[kGroups];
        for (int group = 0; group < kGroups; ++group) {
            Lanes low = values[group * kCount] * sign;
            Lanes high = low;
            for (int i = 1; i < kCount; ++i) {
                low = smaller(low, values[group * kCount + i] * sign);
                high = larger(high, values[group * kCount + i] * sign);
            }
            depths[group] = larger(zeros() - low, zeros());
            wanted[group] = (high + depths[group]) / broadcast(F::kHigh);
        }
        Choice choice;
        choice.scale = to_live_half(largest_of(wanted, kGroups) / broadcast(F::kSubHigh));
        choice.minimum = to_live_half(largest_of(depths, kGroups) / broadcast(F::kSubHigh));
        const Lanes factor = inverse(choice.scale);
        const Lanes minimum_factor = inverse(choice.minimum);
        for (int group = 0; group < kGroups; ++group) {
            choice.subscale[group] = Integers::nearest(wanted[group] * factor);
            choice.submin[group] = Integers::nearest(depths[group] * minimum_factor);
        }
        choice.scale = choice.scale * sign;
        choice.minimum = choice.minimum * sign;
        return choice;
    }

    // As NestedScaled::attempt, for pairs of neighbours, the first `count` of them.
    static Lanes attempt(const Lanes* values, const Lanes* weights, const Lanes* weight_sums, int count,
                         Choice& choice, Choice& found, Lanes best) {
        constexpr float scale_neighbours[7] = {0, -1, 1, 0, 0, -1, 1};
        constexpr float min_neighbours[7] = {0, 0, 0, -1, 1, -1, 1};
        Lanes error = zeros(), scale_scale = zeros(), scale_min = zeros(), min_min = zeros();
        Lanes error_scale = zeros(), error_min = zeros();
        for (int group = 0; group < kGroups; ++group) {
            const int start = group * kCount;
            AffineSums sums;
            sums.error = broadcast(__builtin_inff());
            Lanes subscale = zeros(), submin = zeros();
            for (int n = 0; n < count; ++n) {
                const Lanes tried =
                    clamp(choice.subscale[group] + broadcast(scale_neighbours[n]), F::kSubLow, F::kSubHigh);
                const Lanes tried_min =
                    clamp(choice.submin[group] + broadcast(min_neighbours[n]), F::kSubLow, F::kSubHigh);
                const AffineSums those =
                    affine_sums<Levels, weighted>(values + start, weights + start, kCount, choice.scale * tried,
                                                  zeros() - choice.minimum * tried_min);
                const Mask better = less(those.error, sums.error);
                sums.error = select(better, those.error, sums.error);
                sums.error_level = select(better, those.error_level, sums.error_level);
                sums.error_one = select(better, those.error_one, sums.error_one);
                sums.level_level = select(better, those.level_level, sums.level_level);
                sums.level_one = select(better, those.level_one, sums.level_one);
                subscale = select(better, tried, subscale);
                submin = select(better, tried_min, submin);
            }
            choice.subscale[group] = subscale;
            choice.submin[group] = submin;
            error = error + sums.error;
            scale_scale = scale_scale + (subscale * subscale) * sums.level_level;
            scale_min = scale_min + (subscale * submin) * sums.level_one;
            min_min = min_min + (submin * submin) * weight_sums[group];
            error_scale = error_scale + subscale * sums.error_level;
            error_min = error_min + submin * sums.error_one;
        }
        const Mask better = less(error, best);
        keep_better(better, choice, found);
        const Lanes product = scale_scale * min_min;
        const Lanes determinant = product - scale_min * scale_min;
        const Mask determined = less(product * broadcast(kLeastSpread), determinant);
        const Lanes safe = select(determined, determinant, zeros());
        const Lanes joint = ratio(min_min * error_scale - scale_min * error_min, safe);
        const Lanes step = select(determined, joint, ratio(error_scale, scale_scale));
        const Lanes min_step = ratio(scale_min * error_scale - scale_scale * error_min, safe);
        choice.scale = to_half(choice.scale + step);
        choice.minimum = to_half(choice.minimum + min_step);
        return select(better, error, best);
    }
};

}  // namespace
}  // namespace halfpint::HALFPINT_ISA
