// What it is: the C functions on sessions: exceptions become codes and a message of the thread. See
// fastcnn/c_api.h.
#include "fastcnn/c_api.h"

#include <cstring>
#include <new>
#include <string>

#include "fastcnn/runtime.h"
#include "fastcnn/session.h"
#include "session/tensor_file.h"

using fastcnn::Session;
using fastcnn::Tensor;

struct fastcnn_session {
  Session session;
};
struct fastcnn_result {
  struct Part {
    std::vector<uint8_t> bytes;
    fastcnn_tensor tensor;
  };
  std::vector<Part> parts;
};

static_assert(FASTCNN_MAX_DIMS == fastcnn::kMaxDims && FASTCNN_BOOL + 1 == fastcnn::kDTypeCount);

namespace {

// Not a std::string: to say "out of memory" must need none.
thread_local char last_error[1024] = "";

fastcnn_status fail(fastcnn_status status, const char* what) {
  std::strncpy(last_error, what, sizeof last_error - 1);
  return status;
}

template <class F>
fastcnn_status guarded(F&& f) noexcept {
  try {
    f();
    last_error[0] = 0;
    return FASTCNN_OK;
  } catch (const std::bad_alloc& e) {
    return fail(FASTCNN_MEMORY, e.what());
  } catch (const std::invalid_argument& e) {
    return fail(FASTCNN_INVALID, e.what());
  } catch (const std::out_of_range& e) {
    return fail(FASTCNN_INVALID, e.what());
  } catch (const std::runtime_error& e) {
    return fail(FASTCNN_SYSTEM, e.what());
  } catch (const std::exception& e) {
    return fail(FASTCNN_INTERNAL, e.what());
  } catch (...) {
    return fail(FASTCNN_INTERNAL, "an exception that is no std::exception");
  }
}

template <class... P>
void expect(const char* op, const P*... pointers) {
  fastcnn::check(((pointers != nullptr) && ...), op, ": expected pointers, got NULL");
}

Tensor tensor_of(const char* op, const fastcnn_tensor& t) {
  fastcnn::check(t.ndim >= 0 && t.ndim <= FASTCNN_MAX_DIMS, op, ": expected 0 to ", int(FASTCNN_MAX_DIMS),
                 " dimensions, got ", t.ndim);
  fastcnn::check(static_cast<unsigned>(t.dtype) < fastcnn::kDTypeCount, op, ": unknown dtype ", int(t.dtype));
  const fastcnn::Dims shape(std::span<const int64_t>(t.shape, static_cast<size_t>(t.ndim)));
  const auto dtype = static_cast<fastcnn::DType>(t.dtype);
  const int64_t n = fastcnn::checked_numel(op, shape, dtype);
  fastcnn::check(t.data != nullptr || n == 0, op, ": expected data of shape ", shape, ", got NULL");
  Tensor out = fastcnn::empty(shape, dtype);
  fastcnn::fill_row_major(out, t.data);
  if (dtype == fastcnn::DType::bool_)  // masks of 255 are common, and kernels count bytes of bool as they are
    for (auto* b = out.data<uint8_t>(); b != out.data<uint8_t>() + n; ++b) *b = *b != 0;
  return out;
}

fastcnn_result* result_of(const std::vector<Tensor>& tensors) {
  auto r = std::make_unique<fastcnn_result>();
  for (const Tensor& t : tensors) {
    fastcnn_result::Part p{fastcnn::row_major_bytes(t), {}};
    p.tensor.dtype = static_cast<fastcnn_dtype>(t.dtype());
    p.tensor.ndim = t.ndim();
    for (int i = 0; i < t.ndim(); ++i) p.tensor.shape[i] = t.shape()[i];
    r->parts.push_back(std::move(p));
  }
  for (auto& p : r->parts) p.tensor.data = p.bytes.data();
  return r.release();
}

fastcnn_status run(const char* op, fastcnn_session* s, const fastcnn_tensor* inputs, size_t count, bool step,
                   fastcnn_result** result) {
  if (result) *result = nullptr;
  return guarded([&] {
    expect(op, s, result);
    fastcnn::check(inputs != nullptr || count == 0, op, ": expected inputs, got NULL");
    fastcnn::check(count <= 1024, op, ": expected a number of inputs, got ", count);
    std::vector<Tensor> in;
    for (size_t i = 0; i < count; ++i) in.push_back(tensor_of(op, inputs[i]));
    *result = result_of(step ? s->session.step(in) : s->session.predict(in));
  });
}

bool known(fastcnn_graph graph) { return graph == FASTCNN_PREDICT || graph == FASTCNN_STEP; }

const std::vector<fastcnn::TensorInfo>* infos(const fastcnn_session* s, fastcnn_graph graph, bool outputs) {
  if (!s || !known(graph) || !(graph == FASTCNN_STEP ? s->session.can_step() : s->session.can_predict()))
    return nullptr;
  return outputs ? &s->session.outputs(graph == FASTCNN_STEP) : &s->session.inputs(graph == FASTCNN_STEP);
}

fastcnn_status info_of(const char* op, const fastcnn_session* s, fastcnn_graph graph, bool outputs, size_t index,
                       fastcnn_info* info) {
  return guarded([&] {
    expect(op, s, info);
    fastcnn::check(known(graph), op, ": expected FASTCNN_PREDICT or FASTCNN_STEP, got ", int(graph));
    const auto* all = infos(s, graph, outputs);
    fastcnn::check(all && index < all->size(), op, ": expected an index below ", all ? all->size() : 0, ", got ",
                   index);
    const fastcnn::TensorInfo& t = (*all)[index];
    *info = {};
    info->name = t.name.c_str();
    info->dtype = static_cast<fastcnn_dtype>(t.dtype);
    info->ndim = t.shape.size();
    for (int i = 0; i < t.shape.size(); ++i) info->shape[i] = t.shape[i];
  });
}

fastcnn::SessionOptions options_of(const fastcnn_options& given) {
  fastcnn::SessionOptions o;
  o.threads = given.threads;
  if (given.plans) o.plans = given.plans;
  if (given.plan_bytes) o.plan_bytes = given.plan_bytes;
  if (given.concurrent) o.concurrent = given.concurrent;
  return o;
}

}  // namespace

extern "C" {

const char* fastcnn_version(void) { return fastcnn::version(); }
const char* fastcnn_last_error(void) { return last_error; }

fastcnn_status fastcnn_load(const char* path, int32_t threads, fastcnn_session** session) {
  const fastcnn_options options{threads, 0, 0, 0};
  return fastcnn_load_with(path, &options, session);
}
fastcnn_status fastcnn_load_memory(const void* data, size_t bytes, int32_t threads, fastcnn_session** session) {
  const fastcnn_options options{threads, 0, 0, 0};
  return fastcnn_load_memory_with(data, bytes, &options, session);
}
fastcnn_status fastcnn_load_with(const char* path, const fastcnn_options* options, fastcnn_session** session) {
  if (session) *session = nullptr;
  return guarded([&] {
    expect("fastcnn_load", path, options, session);
    *session = new fastcnn_session{Session::load(path, options_of(*options))};
  });
}
fastcnn_status fastcnn_load_memory_with(const void* data, size_t bytes, const fastcnn_options* options,
                                        fastcnn_session** session) {
  if (session) *session = nullptr;
  return guarded([&] {
    expect("fastcnn_load_memory", options, session);
    *session = new fastcnn_session{Session::load_memory(data, bytes, options_of(*options))};
  });
}
void fastcnn_free(fastcnn_session* session) { delete session; }
fastcnn_status fastcnn_save(const fastcnn_session* session, const char* path) {
  return guarded([&] {
    expect("fastcnn_save", session, path);
    session->session.save(path);
  });
}

size_t fastcnn_input_count(const fastcnn_session* session, fastcnn_graph graph) {
  const auto* all = infos(session, graph, false);
  return all ? all->size() : 0;
}
size_t fastcnn_output_count(const fastcnn_session* session, fastcnn_graph graph) {
  const auto* all = infos(session, graph, true);
  return all ? all->size() : 0;
}
fastcnn_status fastcnn_input(const fastcnn_session* session, fastcnn_graph graph, size_t index,
                             fastcnn_info* info) {
  return info_of("fastcnn_input", session, graph, false, index, info);
}
fastcnn_status fastcnn_output(const fastcnn_session* session, fastcnn_graph graph, size_t index,
                              fastcnn_info* info) {
  return info_of("fastcnn_output", session, graph, true, index, info);
}
size_t fastcnn_class_count(const fastcnn_session* session) {
  return session ? session->session.class_names().size() : 0;
}
const char* fastcnn_class_name(const fastcnn_session* session, size_t index) {
  return index < fastcnn_class_count(session) ? session->session.class_names()[index].c_str() : nullptr;
}

fastcnn_status fastcnn_predict(fastcnn_session* session, const fastcnn_tensor* inputs, size_t count,
                               fastcnn_result** result) {
  return run("fastcnn_predict", session, inputs, count, false, result);
}
fastcnn_status fastcnn_step(fastcnn_session* session, const fastcnn_tensor* inputs, size_t count,
                            fastcnn_result** result) {
  return run("fastcnn_step", session, inputs, count, true, result);
}
fastcnn_status fastcnn_predict_image(fastcnn_session* session, const uint8_t* pixels, int64_t height,
                                     int64_t width, int64_t channels, fastcnn_result** result) {
  if (result) *result = nullptr;
  return guarded([&] {
    expect("fastcnn_predict_image", session, pixels, result);
    *result = result_of(session->session.predict(
        std::vector<Tensor>{session->session.preprocess(pixels, height, width, channels)}));
  });
}
fastcnn_status fastcnn_lr(const fastcnn_session* session, double* lr) {
  return guarded([&] {
    expect("fastcnn_lr", session, lr);
    *lr = session->session.lr();
  });
}
fastcnn_status fastcnn_set_lr(fastcnn_session* session, double lr) {
  return guarded([&] {
    expect("fastcnn_set_lr", session);
    session->session.set_lr(lr);
  });
}

size_t fastcnn_result_count(const fastcnn_result* result) { return result ? result->parts.size() : 0; }
fastcnn_status fastcnn_result_tensor(const fastcnn_result* result, size_t index, fastcnn_tensor* tensor) {
  return guarded([&] {
    expect("fastcnn_result_tensor", result, tensor);
    fastcnn::check(index < result->parts.size(), "fastcnn_result_tensor: expected an index below ",
                   result->parts.size(), ", got ", index);
    *tensor = result->parts[index].tensor;
  });
}
void fastcnn_result_free(fastcnn_result* result) { delete result; }

}  // extern "C"
