// The levels of formats with sixteen of them, in 8 bits. Included by isa/integer.cpp and isa/panel.cpp only, inside their
// namespace.

alignas(16) constexpr std::int8_t kIq4[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
                                              1,    13,   25,  38,  53,  69,  89,  113};
// Twice the levels of e2m1; the row header halves them.
alignas(16) constexpr std::int8_t kE2m1[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};
// nf4's levels times 127 * 128, rounded: 128 * upper + lower (formats/levels.py has the levels).
alignas(16) constexpr std::int8_t kNf4Upper[16] = {-127, -88, -67, -50, -36, -23, -12, 0,
                                                   10,   20,  31,  43,  56,  71,  92,  127};
alignas(16) constexpr std::int8_t kNf4Lower[16] = {0, -53, 40, -20, -16, -60, 56, 0, 14, 56, 33, -11, -4, 58, -24, 0};
