// What the bindings say of their arguments.
#pragma once
#include <nanobind/nanobind.h>

#include <stdexcept>

namespace halfpint {

inline void require(bool holds, const char* what) {
    if (!holds) throw std::invalid_argument(what);
}

// An array that is written to. It is never converted: the caller would not see what is written to a copy.
inline auto out(const char* name) { return nanobind::arg(name).noconvert(); }

}  // namespace halfpint
