// What it is: the one way from an op function to a node: check devices, make outputs, run now (eager) or record
// (while compile traces), and put the result on the tape. What it is not: shape inference; op functions do that.
#pragma once
#include <utility>
#include <vector>

#include "graph/op_kinds.h"
#include "graph/tape.h"

namespace fastcnn {

struct OutSpec {
  Dims shape;
  DType dtype = DType::float32;
};

// New dense outputs. Inputs must already satisfy the kind's operand contract (op_kinds.h); undefined inputs are
// not allowed: leave optional operands out and say so in the params.
std::vector<Tensor> emit(const Rule& rule, OpKind kind, const Params& params, const std::vector<Tensor>& inputs,
                         const std::vector<OutSpec>& outputs);
inline Tensor emit1(const Rule& rule, OpKind kind, const Params& params, const std::vector<Tensor>& inputs,
                    const OutSpec& output) {
  return std::move(emit(rule, kind, params, inputs, {output})[0]);
}

// Writes into existing tensors (in-place updates): no tape entry; the caller has checked that this is allowed.
void emit_into(OpKind kind, const Params& params, const std::vector<Tensor>& inputs,
               const std::vector<Tensor>& outputs);

// A view of base, on the tape under `rule`; params is what the rule needs to undo the view.
Tensor emit_view(const Rule& rule, const Params& params, const Tensor& base, const Dims& shape,
                 const Dims& strides, int64_t offset);

// The same beside the tape.
Tensor noted_view(const char* op, const Params& params, const Tensor& base, const Dims& shape, const Dims& strides,
                  int64_t offset);

// Outputs without values yet, memory or a symbol as the mode asks.
Tensor new_tensor(const Dims& shape, DType dtype, Device device);

// Runs one node now (the interpreter): chooses an implementation, gets its workspace, calls it.
void run_now(OpKind kind, const Params& params, const std::vector<Tensor>& inputs,
             const std::vector<Tensor>& outputs);

}  // namespace fastcnn
