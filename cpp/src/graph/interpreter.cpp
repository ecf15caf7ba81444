// What it is: the eager executor: one node, now. It keeps nothing between nodes.
#include "backend/backend.h"
#include "graph/emit.h"
#include "graph/select.h"

namespace fastcnn {

Operand operand_of(const Tensor& t) {
  Operand o;
  o.data = t.data();
  o.dtype = t.dtype();
  o.ndim = t.ndim();
  for (int i = 0; i < o.ndim; ++i) {
    o.shape[i] = t.shape()[i];
    o.strides[i] = t.strides()[i];
  }
  return o;
}

void run_now(OpKind kind, const Params& params, const std::vector<Tensor>& inputs,
             const std::vector<Tensor>& outputs) {
  constexpr size_t kMost = 16;
  Operand small_in[kMost], small_out[kMost];
  std::vector<Operand> many;  // cat may have any number of inputs
  Operand* in = small_in;
  if (inputs.size() > kMost) {
    many.resize(inputs.size());
    in = many.data();
  }
  for (size_t i = 0; i < inputs.size(); ++i) in[i] = operand_of(inputs[i]);
  for (size_t i = 0; i < outputs.size(); ++i) small_out[i] = operand_of(outputs[i]);
  Call call{kind, params.data(), {in, inputs.size()}, {small_out, outputs.size()}, nullptr};
  const Tensor& any = outputs.empty() ? inputs[0] : outputs[0];
  Backend& backend = backend_of(any.device());
  const Implementation& impl = select_implementation(backend, call);
  int64_t bytes = impl.workspace ? impl.workspace(call) : 0;
  Storage workspace;
  if (bytes > 0) {
    workspace = allocate_storage(static_cast<size_t>(bytes), any.device());
    call.workspace = workspace->data;
  }
  impl.run(call);
}

}  // namespace fastcnn
