#include "cpu.hpp"

#if defined(HALFPINT_ARM) && defined(__linux__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

namespace halfpint {

#if defined(HALFPINT_X86)
bool has_isa(Isa isa) {
    __builtin_cpu_init();
    const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    switch (isa) {
        case Isa::avx512:
            return avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                   __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
                   __builtin_cpu_supports("avx512vnni");
        case Isa::avxvnni: return avx2 && __builtin_cpu_supports("avxvnni");
        case Isa::avx2: return avx2;
        case Isa::neon: return false;
        case Isa::portable: break;
    }
    return true;
}

Isa best_isa() {
    for (const Isa isa : {Isa::avx512, Isa::avxvnni, Isa::avx2})
        if (has_isa(isa)) return isa;
    return Isa::portable;
}

std::vector<std::string> cpu_features() {
    __builtin_cpu_init();
    std::vector<std::string> found;
    if (__builtin_cpu_supports("avx")) found.emplace_back("avx");
    if (__builtin_cpu_supports("avx2")) found.emplace_back("avx2");
    if (__builtin_cpu_supports("fma")) found.emplace_back("fma");
    if (__builtin_cpu_supports("avxvnni")) found.emplace_back("avx_vnni");
    if (__builtin_cpu_supports("avx512f")) found.emplace_back("avx512f");
    if (__builtin_cpu_supports("avx512bw")) found.emplace_back("avx512bw");
    if (__builtin_cpu_supports("avx512dq")) found.emplace_back("avx512dq");
    if (__builtin_cpu_supports("avx512vl")) found.emplace_back("avx512vl");
    if (__builtin_cpu_supports("avx512vnni")) found.emplace_back("avx512_vnni");
    return found;
}
#elif defined(HALFPINT_ARM)
namespace {
bool has_dot_products() {
#if defined(__linux__)
    return (getauxval(AT_HWCAP) & HWCAP_ASIMDDP) != 0;
#else
    return true;  // every 64-bit Mac
#endif
}
}  // namespace

bool has_isa(Isa isa) { return isa == Isa::portable || (isa == Isa::neon && has_dot_products()); }

Isa best_isa() { return has_isa(Isa::neon) ? Isa::neon : Isa::portable; }

std::vector<std::string> cpu_features() {
    std::vector<std::string> found{"neon"};
    if (has_dot_products()) found.emplace_back("dotprod");
    return found;
}
#else
bool has_isa(Isa isa) { return isa == Isa::portable; }

Isa best_isa() { return Isa::portable; }

std::vector<std::string> cpu_features() { return {}; }
#endif

const char* isa_name(Isa isa) {
    switch (isa) {
        case Isa::avx512: return "avx512";
        case Isa::avxvnni: return "avxvnni";
        case Isa::avx2: return "avx2";
        case Isa::neon: return "neon";
        case Isa::portable: break;
    }
    return "portable";
}

}  // namespace halfpint
