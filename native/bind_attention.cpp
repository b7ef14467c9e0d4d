// halfpint.kernels._native.KeyValues: the keys and values of one text in one layer; shapes are checked here, once.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>

#include <stdexcept>
#include <string>

#include "arguments.hpp"
#include "dispatch.hpp"
#include "key_values.hpp"

namespace nb = nanobind;

namespace halfpint {
void bind_attention(nb::module_& module);

namespace {

using ReadFloats = nb::ndarray<const float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Floats = nb::ndarray<float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using ReadBytes = nb::ndarray<const std::uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Bytes = nb::ndarray<std::uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

constexpr std::size_t kMostDims = 1 << 16;

CacheKind kind_of(const std::string& kind) {
    require(kind == "f32" || kind == "f16" || kind == "q8", "no such kind of cache");
    return kind == "f32" ? CacheKind::f32 : kind == "f16" ? CacheKind::f16 : CacheKind::q8;
}

void construct(KeyValues* place, const std::string& kind, std::size_t kv_heads, std::size_t head_dim) {
    require(kv_heads > 0 && head_dim > 0 && kv_heads <= kMostDims && head_dim <= kMostDims, "heads have dimensions");
    new (place) KeyValues(kind_of(kind), kv_heads, head_dim);
}

void append(KeyValues& held, ReadFloats keys, ReadFloats values) {
    const std::size_t tokens = keys.shape(0);
    require(keys.shape(1) == held.columns() && values.shape(1) == held.columns(),
            "keys and values are [tokens, heads * head_dim]");
    require(values.shape(0) == tokens, "there are as many keys as values");
    const float *key = keys.data(), *value = values.data();
    const nb::gil_scoped_release released;
    held.append(key, value, tokens);
}

void attend(const KeyValues& held, ReadFloats queries, float scale, std::size_t window, float cap, Floats out) {
    const CacheShape& shape = held.shape();
    const std::size_t tokens = queries.shape(0), columns = queries.shape(1), heads = columns / shape.head_dim;
    require(heads * shape.head_dim == columns && heads % shape.kv_heads == 0, "queries are [tokens, heads * head_dim]");
    require(heads > 0 && tokens <= held.length(), "queries are those of the last tokens");
    require(out.shape(0) == tokens && out.shape(1) == columns, "out has the shape of the queries");
    if (tokens == 0) return;
    const Attending attending{queries.data(), tokens, heads, scale, window, cap, out.data()};
    const nb::gil_scoped_release released;
    held.attend(attending);
}

void read(const KeyValues& held, std::size_t start, Floats keys, Floats values) {
    const std::size_t tokens = keys.shape(0);
    require(keys.shape(1) == held.columns() && values.shape(1) == held.columns(),
            "keys and values are [tokens, heads * head_dim]");
    require(values.shape(0) == tokens && start <= held.length() && tokens <= held.length() - start, "positions are held");
    held.read(start, tokens, keys.data(), values.data());
}

void save(const KeyValues& held, Bytes out) {
    require(out.shape(0) == held.stored_bytes(held.length()), "out has stored_bytes(length)");
    held.save(out.data());
}

void restore(KeyValues& held, ReadBytes bytes, std::size_t length) {
    require(length <= (std::size_t{1} << 40) && bytes.shape(0) == held.stored_bytes(length), "bytes are stored_bytes(length)");
    held.restore(bytes.data(), length);
}

}  // namespace

void bind_attention(nb::module_& module) {
    module.def("attention_isa", [] { return attention_kernels().isa; });
    nb::class_<KeyValues>(module, "KeyValues")
        .def("__init__", &construct, nb::arg("kind"), nb::arg("kv_heads"), nb::arg("head_dim"))
        .def_prop_ro("length", &KeyValues::length)
        .def_prop_ro("nbytes", &KeyValues::nbytes)
        .def("stored_bytes", &KeyValues::stored_bytes, nb::arg("length"))
        .def("append", &append, nb::arg("keys"), nb::arg("values"))
        .def("attend", &attend, nb::arg("queries"), nb::arg("scale"), nb::arg("window"), nb::arg("cap"), out("out"))
        .def("truncate", &KeyValues::truncate, nb::arg("length"))
        .def("read", &read, nb::arg("start"), out("keys"), out("values"))
        .def("save", &save, out("out"))
        .def("restore", &restore, nb::arg("pages"), nb::arg("length"));
}

}  // namespace halfpint
