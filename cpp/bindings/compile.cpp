// What it is: Compiled and the tracing hooks for Python; the wrapper that flattens arguments is
// fastcnn/compile.py.
#include <pybind11/functional.h>

#include "bindings.h"
#include "fastcnn/autograd.h"
#include "fastcnn/graph.h"

namespace fastcnn::bindings {
namespace {

// A Python function that may be called, and die, on a thread without the GIL.
std::function<void()> held(const py::function& f) {
  auto keep = std::shared_ptr<py::function>(new py::function(f), [](py::function* p) {
    py::gil_scoped_acquire gil;
    delete p;
  });
  return [keep] {
    py::gil_scoped_acquire gil;
    (*keep)();
  };
}

// A run of another thread, which these wait for, may want the GIL.
const py::call_guard<py::gil_scoped_release> no_gil{};
template <class F>
auto waiting(F&& f) {
  py::gil_scoped_release release;
  return f();
}

}  // namespace

void bind_compile(py::module_& m) {
  py::class_<Compiled>(m, "Compiled", "The plans of one function by input signature.")
      .def(py::init([](int64_t budget, int64_t plans) { return Compiled({}, budget, plans); }),
           py::arg("budget_bytes") = int64_t(2) << 30, py::arg("most_plans") = 64)
      .def(
          "call",
          [](Compiled& c, const py::bytes& key, const std::vector<Tensor>& inputs, const py::function& fn,
             const std::optional<py::dict>& results) {
            int64_t id = 0;
            std::string k = key;
            std::vector<Tensor> out;
            py::object described;
            // Before Python runs again, and for a plan whose first run fails too: no plan is found without it.
            const auto note = [&] {
              if (id && described) (*results)[py::int_(std::abs(id))] = described;
            };
            try {
              py::gil_scoped_release nogil;
              out = c.call(
                  k, inputs,
                  [&](const std::vector<Tensor>& symbols) {
                    py::gil_scoped_acquire gil;
                    if (!results) return fn(symbols).cast<std::vector<Tensor>>();
                    auto [tensors, about] = fn(symbols).cast<std::pair<std::vector<Tensor>, py::object>>();
                    if (is_tracing()) described = std::move(about);
                    return std::move(tensors);
                  },
                  &id);
            } catch (...) {
              note();
              throw;
            }
            note();
            return std::make_pair(std::move(out), std::max<int64_t>(id, 0));
          },
          py::arg("key"), py::arg("inputs"), py::arg("fn"), py::arg("results") = py::none(),
          "(outputs, plan id; 0 when it ran eagerly). With results, fn gives outputs and what to keep there under "
          "the id.")
      .def("info",
           [](const Compiled& c) {
             const PlanInfo i = waiting([&] { return c.info(); });
             py::dict d;
             d["arena_bytes"] = i.arena_bytes;
             d["tensor_bytes"] = i.tensor_bytes;
             d["output_bytes"] = i.output_bytes;
             d["prepared_bytes"] = i.prepared_bytes;
             d["prepared_nodes"] = i.prepared_nodes;
             d["prepared_operands"] = i.prepared_operands;
             d["traced_nodes"] = i.traced_nodes;
             d["steps"] = i.steps;
             return d;
           })
      .def("describe", &Compiled::describe, no_gil)
      .def("steps",
           [](const Compiled& c) {
             py::list out;
             for (const StepInfo& s : waiting([&] { return c.steps(); })) {
               py::dict d;
               d["op"] = s.op;
               d["implementation"] = s.implementation;
               d["shapes"] = s.shapes;
               d["bytes"] = s.bytes;
               d["flops"] = s.flops;
               d["ms"] = s.ms;
               d["last_start_ms"] = s.last_start_ms;
               d["last_ms"] = s.last_ms;
               out.append(std::move(d));
             }
             return out;
           })
      .def("record_times", &Compiled::record_times, py::arg("on"), no_gil)
      .def("recorded_runs", &Compiled::recorded_runs, no_gil)
      .def("cache_info",
           [](const Compiled& c) {
             const CacheInfo i = waiting([&] { return c.cache_info(); });
             py::dict d;
             d["hits"] = i.hits;
             d["misses"] = i.misses;
             d["evictions"] = i.evictions;
             d["plans"] = i.plans;
             d["bytes"] = i.bytes;
             d["budget"] = i.budget;
             return d;
           })
      .def("plan_ids", &Compiled::plan_ids, no_gil)
      .def("reset", &Compiled::reset, no_gil);
  m.def(
      "on_each_run",
      [](const py::function& work, const std::optional<py::function>& undo) {
        on_each_run(held(work), undo ? held(*undo) : nullptr);
      },
      py::arg("work"), py::arg("undo") = py::none(),
      "Does host work now; inside a traced function, before each replay instead; undo() after one that failed.");
  m.def("is_tracing", &is_tracing);
  m.def(
      "checkpoint", [](const py::function& run) { checkpoint(held(run)); }, py::arg("run"),
      "Runs a function now and again in backward; see fastcnn.checkpoint.");
}

}  // namespace fastcnn::bindings
