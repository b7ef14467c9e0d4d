// Writing past the caches. What no cache holds is read from memory before it is written, unless whole lines are written
// at once: of a product whose result is larger than a second-level cache that took a tenth of the time.
#pragma once
#include <cstddef>
#include <cstdint>
#include <cstring>

#if defined(__AVX__)
#include <immintrin.h>
#elif defined(__SSE2__)
#include <emmintrin.h>
#endif

namespace halfpint {
namespace {

constexpr std::size_t kLineFloats = 16;

// Whether rows that are `stride` floats apart begin on lines of 64 bytes, and this processor can write past its caches.
[[maybe_unused]] inline __attribute__((always_inline)) bool can_stream(const float* first, std::size_t stride) {
#if defined(__SSE2__)
    return reinterpret_cast<std::uintptr_t>(first) % (kLineFloats * sizeof(float)) == 0 && stride % kLineFloats == 0;
#else
    return static_cast<void>(first), static_cast<void>(stride), false;
#endif
}

// 16 floats; `past_caches` where can_stream says so.
[[maybe_unused]] inline __attribute__((always_inline)) void write_line(float* to, const float* from, bool past_caches) {
#if defined(__SSE2__)
    if (past_caches) {
#if defined(__AVX512F__)
        return _mm512_stream_ps(to, _mm512_loadu_ps(from));
#elif defined(__AVX__)
        for (std::size_t i = 0; i < kLineFloats; i += 8) _mm256_stream_ps(to + i, _mm256_loadu_ps(from + i));
        return;
#else
        for (std::size_t i = 0; i < kLineFloats; i += 4) _mm_stream_ps(to + i, _mm_loadu_ps(from + i));
        return;
#endif
    }
#endif
    static_cast<void>(past_caches);
    std::memcpy(to, from, kLineFloats * sizeof(float));
}

// Any number of floats that begin on a line.
[[maybe_unused]] inline __attribute__((always_inline)) void write_row(const float* from, std::size_t count, float* to,
                                                                      bool past_caches) {
    for (; count >= kLineFloats; count -= kLineFloats, to += kLineFloats, from += kLineFloats)
        write_line(to, from, past_caches);
    std::memcpy(to, from, count * sizeof(float));
}

// Before others read what was written past the caches.
[[maybe_unused]] inline __attribute__((always_inline)) void finish_streams() {
#if defined(__SSE2__)
    _mm_sfence();
#endif
}

}  // namespace
}  // namespace halfpint
