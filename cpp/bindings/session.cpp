// What it is: sessions and traced graphs for Python: conversion only. The wrappers are fastcnn/_graph.py,
// _export.py and _session.py.
#include "fastcnn/session.h"

#include <pybind11/functional.h>

#include "bindings.h"

namespace fastcnn::bindings {
namespace {

using Names = std::vector<std::pair<std::string, Tensor>>;

std::vector<NamedTensor> named(const Names& from) {
  std::vector<NamedTensor> out;
  for (const auto& [name, tensor] : from) out.push_back({name, tensor});
  return out;
}
Names pairs(const std::vector<NamedTensor>& from) {
  Names out;
  for (const NamedTensor& t : from) out.emplace_back(t.name, t.tensor);
  return out;
}

py::list infos(const std::vector<TensorInfo>& from) {
  py::list out;
  for (const TensorInfo& t : from) {
    py::list shape;
    for (const int64_t d : t.shape) shape.append(d < 0 ? py::object(py::none()) : py::object(py::int_(d)));
    out.append(py::make_tuple(t.name, t.dtype, py::tuple(shape)));
  }
  return out;
}

struct Pixels {
  const uint8_t* data;
  int64_t height, width, channels;
};
Pixels pixels_of(const py::buffer_info& b) {
  check<TypeError>(b.format == py::format_descriptor<uint8_t>::format(),
                   "preprocess: expected an image of uint8, got '", b.format, "'");
  check(b.ndim == 2 || b.ndim == 3, "preprocess: expected an image of (height, width, channels), got ", b.ndim,
        " dimensions");
  const int64_t h = b.shape[0], w = b.shape[1], c = b.ndim == 3 ? b.shape[2] : 1;
  check((b.ndim == 2 || b.strides[2] == 1) && b.strides[1] == c && b.strides[0] == w * c,
        "preprocess: expected a dense image; use numpy.ascontiguousarray");
  return {static_cast<const uint8_t*>(b.ptr), h, w, c};
}

}  // namespace

void bind_session(py::module_& m) {
  m.def(
      "trace_graph",
      [](const py::function& fn, const std::vector<std::tuple<std::string, py::object, py::object, bool>>& inputs,
         const Names& known, const std::vector<std::string>& outputs) {
        std::vector<GraphInput> in;
        for (const auto& [name, dtype, shape, batch] : inputs)
          in.push_back({name, dtype_from(dtype), dims_from("export", shape), batch});
        TracedGraph g;
        {
          py::gil_scoped_release nogil;
          g = trace_graph(
              [&](const std::vector<Tensor>& symbols) {
                py::gil_scoped_acquire gil;
                return fn(symbols).cast<std::vector<Tensor>>();
              },
              in, named(known), outputs);
        }
        return py::make_tuple(g.json, pairs(g.tensors), g.host_work);
      },
      py::arg("fn"), py::arg("inputs"), py::arg("known"), py::arg("outputs") = std::vector<std::string>{},
      "(JSON, [(name, tensor)], host_work) of a function traced on inputs (name, dtype, shape, batch).");
  m.def(
      "write_session",
      [](const std::string& path,
         const std::vector<std::tuple<std::string, std::string, Names, int64_t, std::string>>& graphs,
         const std::string& extra) {
        std::vector<SessionGraph> all;
        for (const auto& [name, json, tensors, host_work, updates] : graphs)
          all.push_back({name, {json, named(tensors), host_work}, updates});
        py::gil_scoped_release nogil;
        write_session(path, all, extra);
      },
      py::arg("path"), py::arg("graphs"), py::arg("extra"),
      "graphs: (name, JSON, [(name, tensor)], host_work, updates as JSON).");
  py::class_<Session>(m, "Session", "A loaded .fcnn file; the class of users is fastcnn.session.Session.")
      .def_static(
          "load",
          [](const std::string& path, int threads, int64_t plan_bytes, int64_t plans, int64_t concurrent) {
            return std::make_unique<Session>(Session::load(path, {threads, plan_bytes, plans, concurrent}));
          },
          NoGil(), py::arg("path"), py::arg("threads") = 0, py::arg("plan_bytes") = int64_t(2) << 30,
          py::arg("plans") = 16, py::arg("concurrent") = 1)
      .def_static(
          "load_memory",
          [](const py::bytes& data, int threads) {
            const std::string_view bytes = data;
            SessionOptions o;
            o.threads = threads;
            py::gil_scoped_release nogil;
            return std::make_unique<Session>(Session::load_memory(bytes.data(), bytes.size(), o));
          },
          py::arg("data"), py::arg("threads") = 0)
      .def("can_predict", &Session::can_predict)
      .def("can_step", &Session::can_step)
      .def(
          "inputs", [](const Session& s, bool step) { return infos(s.inputs(step)); }, py::arg("of_step") = false)
      .def(
          "outputs", [](const Session& s, bool step) { return infos(s.outputs(step)); },
          py::arg("of_step") = false)
      .def(
          "predict", [](Session& s, const std::vector<Tensor>& in) { return s.predict(in); }, NoGil(),
          py::arg("inputs"))
      .def("step", &Session::step, NoGil(), py::arg("inputs"))
      .def("lr", &Session::lr, NoGil())
      .def("set_lr", &Session::set_lr, NoGil(), py::arg("lr"))
      .def(
          "preprocess",
          [](const Session& s, const py::object& image) {
            const py::buffer_info b = py::buffer(image).request();
            const Pixels p = pixels_of(b);
            py::gil_scoped_release nogil;
            return s.preprocess(p.data, p.height, p.width, p.channels);
          },
          py::arg("image"))
      .def(
          "classify",
          [](Session& s, const py::object& image, int64_t k) {
            const py::buffer_info b = py::buffer(image).request();
            const Pixels p = pixels_of(b);
            std::vector<Guess> guesses;
            {
              py::gil_scoped_release nogil;
              guesses = s.classify(p.data, p.height, p.width, p.channels, k);
            }
            py::list out;
            for (const Guess& g : guesses) out.append(py::make_tuple(g.index, g.name, g.probability));
            return out;
          },
          py::arg("image"), py::arg("k") = 5)
      .def("class_names", &Session::class_names)
      .def("tensors", [](const Session& s) { return pairs(s.tensors()); })
      .def("save", &Session::save, NoGil(), py::arg("path"))
      .def(
          "cache_info",
          [](const Session& s, bool step) {
            const CacheInfo i = [&] {
              py::gil_scoped_release nogil;  // it waits for a run under way
              return s.cache_info(step);
            }();
            py::dict d;
            d["hits"] = i.hits, d["misses"] = i.misses, d["evictions"] = i.evictions, d["plans"] = i.plans;
            d["bytes"] = i.bytes, d["budget"] = i.budget;
            return d;
          },
          py::arg("of_step") = false);
}

}  // namespace fastcnn::bindings
