// Python bindings: translation only, no arithmetic. The GIL is released around compute.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include "alpage/kernel_names.h"
#include "alpage/limits.h"
#include "alpage/model.h"
#include "alpage/quantize.h"
#include "alpage/sampler.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace {

template <class T, int dimensions>
using In = nb::ndarray<const T, nb::ndim<dimensions>, nb::c_contig, nb::device::cpu>;
using Ids = In<int32_t, 1>;

alpage::KvType kv_type(const std::string& name) {
    if (name == "bf16") return alpage::KvType::bf16;
    if (name == "int8") return alpage::KvType::int8;
    throw nb::value_error("kv must be 'bf16' or 'int8'");
}

class PyModel {
public:
    PyModel(int64_t vocab_size, int64_t dim, int64_t n_layers, int64_t n_heads, int64_t n_kv_heads,
            int64_t head_dim, int64_t ffn_dim, float norm_eps, std::vector<double> frequencies,
            int threads, const std::string& isa)
        : model({vocab_size, dim, n_layers, n_heads, n_kv_heads, head_dim, ffn_dim, norm_eps,
                 std::move(frequencies)},
                threads, isa) {}

    bool set_matrix(const std::string& name, int64_t layer, int type, int64_t rows, int64_t columns,
                    In<uint8_t, 1> data, std::optional<Ids> order) {
        const alpage::TensorType tensor_type = alpage::tensor_type(type);
        nb::gil_scoped_release release;
        return model.set_matrix(name, layer, tensor_type, rows, columns, data.data(), data.size(),
                                order ? order->data() : nullptr, order ? order->size() : 0);
    }

    // name, layer, A [rank][columns], B [rows][rank], scale
    using LowRank = std::tuple<std::string, int64_t, In<float, 2>, In<float, 2>, float>;

    bool set_adapter(int32_t slot, const std::vector<LowRank>& matrices) {
        std::vector<alpage::AdapterMatrix> given;
        for (const auto& [name, layer, a, b, scale] : matrices) {
            if (a.shape(0) != b.shape(1)) throw nb::value_error("A and B have different ranks");
            given.push_back({name, layer, static_cast<int64_t>(a.shape(0)),
                             static_cast<int64_t>(b.shape(0)), static_cast<int64_t>(a.shape(1)),
                             a.data(), b.data(), scale});
        }
        nb::gil_scoped_release release;
        return model.set_adapter(slot, given);
    }

    nb::ndarray<nb::numpy, float, nb::ndim<2>> forward(Ids tokens, Ids positions, Ids sequences,
                                                       In<int32_t, 2> page_tables, Ids outputs,
                                                       bool hidden, std::optional<Ids> adapters) {
        if (positions.size() != tokens.size() || sequences.size() != tokens.size()) {
            throw nb::value_error("tokens, positions and sequences must have the same length");
        }
        if (adapters && adapters->size() != page_tables.shape(0)) {
            throw nb::value_error("adapters must have one slot a sequence");
        }
        const alpage::Batch batch{static_cast<int64_t>(tokens.size()), tokens.data(),
                                  positions.data(), sequences.data(), page_tables.data(),
                                  static_cast<int64_t>(page_tables.shape(0)),
                                  static_cast<int64_t>(page_tables.shape(1)), outputs.data(),
                                  static_cast<int64_t>(outputs.size()),
                                  adapters ? adapters->data() : nullptr};
        const float* result = nullptr;
        {
            nb::gil_scoped_release release;
            result = model.forward(batch, hidden);
        }
        const alpage::ModelShape& shape = model.shape();
        const size_t width = static_cast<size_t>(hidden ? shape.dim : shape.vocab_size);
        // The array borrows the model's buffer, and keeps the model alive.
        return {const_cast<float*>(result), {outputs.size(), width}, nb::find(this)};
    }

    nb::bytes read_page(int64_t page) const {
        const size_t size = model.page_bytes();
        const nb::object bytes =
            nb::steal(PyBytes_FromStringAndSize(nullptr, static_cast<Py_ssize_t>(size)));
        if (!bytes.is_valid()) throw nb::python_error();
        uint8_t* out = reinterpret_cast<uint8_t*>(PyBytes_AsString(bytes.ptr()));
        {
            nb::gil_scoped_release release;
            model.read_page(page, out, size);
        }
        return nb::cast<nb::bytes>(bytes);
    }

    void write_page(int64_t page, nb::bytes data) {
        const uint8_t* in = static_cast<const uint8_t*>(data.data());
        const size_t size = data.size();
        nb::gil_scoped_release release;
        model.write_page(page, in, size);
    }

    // A copy, which lives on when the model is gone.
    nb::ndarray<nb::numpy, double, nb::ndim<1>> squares(const std::string& name,
                                                        int64_t layer) const {
        auto* copy = new std::vector<double>(model.squares(name, layer));
        nb::capsule owner(copy, [](void* p) noexcept {
            delete static_cast<std::vector<double>*>(p);
        });
        return {copy->data(), {copy->size()}, owner};
    }

    alpage::Model model;
};

using Top = std::vector<std::pair<int32_t, double>>;

std::tuple<int32_t, std::optional<double>, Top> sample(
    In<float, 1> logits, Ids history, int64_t prompt_length, float temperature, int64_t top_k,
    float top_p, float min_p, float repetition_penalty, float presence_penalty,
    float frequency_penalty, Ids bias_ids, In<float, 1> bias_values, uint64_t seed, uint64_t step,
    int top_logprobs, std::optional<In<uint32_t, 1>> allowed) {
    if (bias_ids.size() != bias_values.size()) throw nb::value_error("bias ids and values differ");
    if (allowed && allowed->size() < (logits.size() + 31) / 32) {
        throw nb::value_error("the allowed ids must have one bit a logit");
    }
    alpage::SamplingParams params;
    params.temperature = temperature;
    params.top_k = top_k;
    params.top_p = top_p;
    params.min_p = min_p;
    params.repetition_penalty = repetition_penalty;
    params.presence_penalty = presence_penalty;
    params.frequency_penalty = frequency_penalty;
    params.bias_ids = bias_ids.data();
    params.bias_values = bias_values.data();
    params.bias_count = static_cast<int64_t>(bias_ids.size());
    params.seed = seed;
    params.step = step;
    params.top_logprobs = top_logprobs;
    params.allowed = allowed ? allowed->data() : nullptr;
    alpage::Sampled result;
    {
        nb::gil_scoped_release release;
        result = alpage::sample(logits.data(), static_cast<int64_t>(logits.size()), history.data(),
                                static_cast<int64_t>(history.size()), prompt_length, params);
    }
    std::optional<double> logprob;
    if (top_logprobs >= 0 && result.token >= 0) logprob = result.logprob;
    return {result.token, logprob, std::move(result.top)};
}

// 0: done; 1: a weight is not finite; 2: one is too large for the type (alpage::Encoded).
int encode(In<uint8_t, 1> weights, int from, int64_t rows, int64_t columns, int to,
           std::optional<In<float, 1>> importance, int threads, const std::string& isa,
           nb::ndarray<uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu> out) {
    const alpage::EncodeRequest request{
        alpage::tensor_type(from), weights.data(), rows, columns, alpage::tensor_type(to),
        importance ? importance->data() : nullptr, threads, isa};
    const alpage::FileBlock given = alpage::file_block(request.from);
    const alpage::FileBlock made = alpage::file_block(request.to);
    const int64_t count = static_cast<int64_t>(weights.size()) / given.bytes;
    if (rows < 1 || columns < 1 || count / rows != columns || count % rows ||
        weights.size() % static_cast<size_t>(given.bytes)) {
        throw nb::value_error("weights must have rows * columns numbers");
    }
    if (static_cast<int64_t>(out.size()) != count / made.elements * made.bytes) {
        throw nb::value_error("out must have the size of the encoded rows");
    }
    if (importance && static_cast<int64_t>(importance->size()) != columns) {
        throw nb::value_error("importance must have one number a column");
    }
    nb::gil_scoped_release release;
    return static_cast<int>(alpage::encode(request, out.data()));
}

}  // namespace

NB_MODULE(_native, m) {
    m.doc() = "Alpage's native core: a Llama model on the CPU, and a token sampler.";
    m.attr("PAGE_TOKENS") = alpage::page_tokens;
    m.attr("CACHE_LAYOUT") = alpage::cache_layout;
    m.def("available_isas", &alpage::kernel_names,
          "Instruction sets that this machine runs, the plainest first.");
    nb::class_<PyModel>(m, "Model", "Weights in panels with a paged key/value cache.")
        .def(nb::init<int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, float,
                      std::vector<double>, int, const std::string&>(),
             "vocab_size"_a, "dim"_a, "n_layers"_a, "n_heads"_a, "n_kv_heads"_a, "head_dim"_a,
             "ffn_dim"_a, "norm_eps"_a, "inverse_frequencies"_a, "threads"_a, "isa"_a)
        .def("set_matrix", &PyModel::set_matrix, "name"_a, "layer"_a, "type"_a, "rows"_a,
             "columns"_a, "data"_a, "order"_a.none())
        .def("set_vector",
             [](PyModel& self, const std::string& name, int64_t layer, In<float, 1> data) {
                 return self.model.set_vector(name, layer, data.data(), data.size());
             }, "name"_a, "layer"_a, "data"_a)
        .def("finish",
             [](PyModel& self, int64_t pages, const std::string& kv) {
                 self.model.finish(pages, kv_type(kv));
             }, "pages"_a, "kv"_a = "bf16")
        .def("forward", &PyModel::forward, "tokens"_a, "positions"_a, "sequences"_a,
             "page_tables"_a, "outputs"_a, "hidden"_a, "adapters"_a = nb::none(),
             nb::rv_policy::reference)
        .def("read_page", &PyModel::read_page, "page"_a)
        .def("write_page", &PyModel::write_page, "page"_a, "data"_a)
        .def("weight_digest", [](const PyModel& self) { return self.model.weight_digest(); },
             nb::call_guard<nb::gil_scoped_release>())
        .def("set_adapter", &PyModel::set_adapter, "slot"_a, "matrices"_a)
        .def("free_adapter", [](PyModel& self, int32_t slot) { self.model.free_adapter(slot); },
             "slot"_a)
        .def("observe", [](PyModel& self) { self.model.observe(); })
        .def("squares", &PyModel::squares, "name"_a, "layer"_a)
        .def("observed_rows",
             [](const PyModel& self, const std::string& name) {
                 return self.model.observed_rows(name);
             }, "name"_a)
        .def("time_stages", [](PyModel& self) { self.model.time_stages(); })
        .def("stage_seconds", [](const PyModel& self) { return self.model.stage_seconds(); })
        .def_prop_ro("isa", [](const PyModel& self) { return self.model.isa(); })
        .def_prop_ro("threads", [](const PyModel& self) { return self.model.threads(); })
        .def_prop_ro("weight_bytes", [](const PyModel& self) { return self.model.weight_bytes(); })
        .def_prop_ro("page_bytes", [](const PyModel& self) { return self.model.page_bytes(); })
        .def_prop_ro("cache_bytes", [](const PyModel& self) { return self.model.cache_bytes(); })
        .def_prop_ro("adapter_bytes",
                     [](const PyModel& self) { return self.model.adapter_bytes(); });
    m.def("read_rate", &alpage::read_rate, "threads"_a, "size"_a,
          nb::call_guard<nb::gil_scoped_release>());
    m.def("product_rate",
          [](int type, int64_t rows, int threads, const std::string& isa) {
              return alpage::product_rate(alpage::tensor_type(type), rows, threads, isa);
          }, "kind"_a, "rows"_a, "threads"_a, "isa"_a, nb::call_guard<nb::gil_scoped_release>());
    m.def("encode", &encode, "weights"_a, "from_type"_a, "rows"_a, "columns"_a, "to_type"_a,
          "importance"_a.none(), "threads"_a, "isa"_a, "out"_a);
    m.def("sample", &sample, "logits"_a, "history"_a, "prompt_length"_a, "temperature"_a,
          "top_k"_a, "top_p"_a, "min_p"_a, "repetition_penalty"_a, "presence_penalty"_a,
          "frequency_penalty"_a, "bias_ids"_a, "bias_values"_a, "seed"_a, "step"_a,
          "top_logprobs"_a, "allowed"_a = nb::none());
}
