// Memory that a kernel works in.
#pragma once
#include <cstddef>
#include <memory>
#include <new>

namespace halfpint {

// Floats aligned for vectors of any width; not initialised.
class Scratch {
public:
    explicit Scratch(std::size_t count)
        : floats_(static_cast<float*>(::operator new(count * sizeof(float), std::align_val_t{64}))) {}
    float* get() const { return floats_.get(); }

private:
    struct Free {
        void operator()(float* floats) const { ::operator delete(floats, std::align_val_t{64}); }
    };
    std::unique_ptr<float, Free> floats_;
};

}  // namespace halfpint
