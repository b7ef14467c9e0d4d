#include "isa/probe.hpp"

#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace halfpint::HALFPINT_ISA {
namespace {

// So many sums that do not wait for each other: a product takes 4 or 5 cycles, and up to two start in one.
constexpr int kSums = 12;

// Four sums a stream: enough that adding waits for memory and not for the adds before.
constexpr std::size_t kUnroll = 4;

#if defined(__AVX512F__)
using Words = __m512i;
inline Words no_words() { return _mm512_setzero_si512(); }
inline Words load(const std::uint64_t* from) { return _mm512_loadu_si512(from); }
inline Words add(Words a, Words b) { return _mm512_add_epi64(a, b); }
constexpr std::size_t kMultiplies = 64;
constexpr const char* kInstruction = "vpdpbusd, 512 bits";
using Sum = __m512i;
inline Sum no_sum() { return _mm512_setzero_si512(); }
// One instruction of assembly: the compiler would copy the accumulators of the intrinsic through memory.
inline void multiply_once(Sum& sum, Sum a, Sum b) { asm("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(a), "v"(b)); }
#elif defined(__AVX2__)
using Words = __m256i;
inline Words no_words() { return _mm256_setzero_si256(); }
inline Words load(const std::uint64_t* from) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
}
inline Words add(Words a, Words b) { return _mm256_add_epi64(a, b); }
constexpr std::size_t kMultiplies = 32;
using Sum = __m256i;
inline Sum no_sum() { return _mm256_setzero_si256(); }
#if defined(__AVXVNNI__)
constexpr const char* kInstruction = "vpdpbusd, 256 bits";
inline void multiply_once(Sum& sum, Sum a, Sum b) { asm("%{vex%} vpdpbusd %2, %1, %0" : "+x"(sum) : "x"(a), "x"(b)); }
#else
constexpr const char* kInstruction = "vpmaddubsw, 256 bits";
// Sums in 16 bits: widening them to 32 is needed once in many products, and is not counted.
inline void multiply_once(Sum& sum, Sum a, Sum b) {
    Sum product;
    asm("vpmaddubsw %3, %2, %1\n\tvpaddw %1, %0, %0" : "+x"(sum), "=&x"(product) : "x"(a), "x"(b));
}
#endif
#else
using Words = std::uint64_t;
inline Words no_words() { return 0; }
inline Words load(const std::uint64_t* from) { return *from; }
inline Words add(Words a, Words b) { return a + b; }
typedef std::int32_t Sum __attribute__((vector_size(16)));
inline Sum no_sum() { return Sum{}; }
#if defined(__SSE2__)
constexpr std::size_t kMultiplies = 8;
constexpr const char* kInstruction = "pmaddwd, 128 bits";
// There is no product of 8 bits: they are widened to 16 first, which is not counted.
inline void multiply_once(Sum& sum, Sum a, Sum b) {
    asm("pmaddwd %2, %1\n\tpaddd %1, %0" : "+x"(sum), "+x"(a) : "x"(b));
}
#elif defined(__ARM_FEATURE_DOTPROD)
constexpr std::size_t kMultiplies = 16;
constexpr const char* kInstruction = "sdot, 128 bits";
inline void multiply_once(Sum& sum, Sum a, Sum b) {
    asm("sdot %0.4s, %1.16b, %2.16b" : "+w"(sum) : "w"(a), "w"(b));
}
#else
constexpr std::size_t kMultiplies = 4;
constexpr const char* kInstruction = "four products of 32 bits";
inline void multiply_once(Sum& sum, Sum a, Sum b) {
    // The compiler must not see that all sums add the same product.
    asm("" : "+m"(a));
    sum += a * b;
}
#endif
#endif

constexpr std::size_t kWords = sizeof(Words) / sizeof(std::uint64_t);

std::uint64_t total(Words words) {
    std::uint64_t lanes[kWords];
    __builtin_memcpy(lanes, &words, sizeof(words));
    std::uint64_t sum = 0;
    for (const std::uint64_t lane : lanes) sum += lane;
    return sum;
}

std::uint64_t read(const std::uint64_t* words, std::size_t count) {
    Words sums[2][kUnroll];
    for (auto& stream : sums)
        for (auto& sum : stream) sum = no_words();
    constexpr std::size_t kStep = kUnroll * kWords;
    const std::size_t half = count / 2 / kStep * kStep;
    for (std::size_t i = 0; i < half; i += kStep)
        for (std::size_t k = 0; k < kUnroll; ++k) {
            sums[0][k] = add(sums[0][k], load(words + i + k * kWords));
            sums[1][k] = add(sums[1][k], load(words + half + i + k * kWords));
        }
    std::uint64_t sum = 0;
    for (const auto& stream : sums)
        for (const auto& part : stream) sum += total(part);
    for (std::size_t i = 2 * half; i < count; ++i) sum += words[i];
    return sum;
}

std::int32_t lanes_of(Sum sum) {
    std::int32_t lanes[sizeof(Sum) / sizeof(std::int32_t)], result = 0;
    __builtin_memcpy(lanes, &sum, sizeof(sum));
    for (const std::int32_t lane : lanes) result += lane;
    return result;
}

std::int32_t multiply(std::size_t steps) {
    // Unrolled everywhere and nowhere with an address: gcc would store every sum in every step, which takes longer than
    // the products.
    Sum sums[kSums];
#pragma GCC unroll 12
    for (int i = 0; i < kSums; ++i) sums[i] = no_sum();
    Sum a = no_sum();
    Sum b = no_sum();
    // Operands that the compiler knows nothing of, and that are zero: no sum can overflow.
    asm volatile("" : "+m"(a), "+m"(b));
    for (std::size_t step = 0; step < steps; ++step) {
#pragma GCC unroll 12
        for (int i = 0; i < kSums; ++i) multiply_once(sums[i], a, b);
    }
    std::int32_t result = 0;
#pragma GCC unroll 12
    for (int i = 0; i < kSums; ++i) result += lanes_of(sums[i]);
    return result;
}

}  // namespace

const ProbeKernels& probe_kernels() {
    static constexpr ProbeKernels kernels{&read, &multiply, kSums * kMultiplies, kInstruction};
    return kernels;
}

}  // namespace halfpint::HALFPINT_ISA
