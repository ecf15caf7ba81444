// See emit.h.
#include "graph/emit.h"

#include "graph/checkpoint.h"
#include "graph/trace.h"

namespace fastcnn {
namespace {

void check_devices(const char* name, const std::vector<Tensor>& inputs) {
  for (const Tensor& t : inputs) {
    check(t.defined(), name, ": an operand is an empty handle");
    check(t.device() == inputs[0].device(), name, ": expected all tensors on one device, got ", inputs[0].device(),
          " and ", t.device());
    const StorageImpl& s = *t.impl()->storage;
    check(s.trace == 0 || (current_trace() && s.trace == current_trace()->id), name, ": a tensor of shape ",
          t.shape(), " belongs to a compiled function that is not being traced now; return it from that function");
  }
}

void run_or_record(OpKind kind, const Params& params, const std::vector<Tensor>& in,
                   const std::vector<Tensor>& out) {
  if (Trace* t = current_trace())
    t->record(kind, params, in, out);
  else
    run_now(kind, params, in, out);
}

}  // namespace

Tensor new_tensor(const Dims& shape, DType dtype, Device device) {
  if (Trace* t = current_trace())
    return t->new_symbol(shape, canonical_strides(shape), dtype, device, Buffer::Kind::temporary);
  return empty(shape, dtype, device);
}

std::vector<Tensor> emit(const Rule& rule, OpKind kind, const Params& params, const std::vector<Tensor>& inputs,
                         const std::vector<OutSpec>& outputs) {
  check_devices(rule.name, inputs);
  Device device = inputs.empty() ? Device{} : inputs[0].device();
  std::vector<Tensor> out;
  out.reserve(outputs.size());
  for (const OutSpec& o : outputs) {
    checked_numel(rule.name, o.shape, o.dtype);
    out.push_back(new_tensor(o.shape, o.dtype, device));
  }
  run_or_record(kind, params, inputs, out);
  if (rule.vjp) record_on_tape(rule, params, inputs, out);
  return out;
}

void emit_into(OpKind kind, const Params& params, const std::vector<Tensor>& inputs,
               const std::vector<Tensor>& outputs) {
  check_devices(op_name(kind), inputs);
  check_devices(op_name(kind), outputs);
  for (const Tensor& t : outputs)
    check(!t.impl()->storage->readonly, op_name(kind), ": the tensor of shape ", t.shape(),
          " is a view of read-only memory; clone() it first");
  // The generator is set back before a second run, so it moves on in both.
  if (kind != OpKind::rng_advance && !outputs.empty() && Region::already_done(outputs[0])) return;
  run_or_record(kind, params, inputs, outputs);
  for (const Tensor& t : outputs) ++t.impl()->storage->version;
}

Tensor noted_view(const char* op, const Params& params, const Tensor& base, const Dims& shape, const Dims& strides,
                  int64_t offset) {
  Tensor out = make_view(base, shape, strides, offset);
  if (Trace* t = current_trace()) t->note_view(op, params, base, out);
  return out;
}

Tensor emit_view(const Rule& rule, const Params& params, const Tensor& base, const Dims& shape,
                 const Dims& strides, int64_t offset) {
  std::vector<Tensor> out{noted_view(rule.name, params, base, shape, strides, offset)};
  record_on_tape(rule, params, {base}, out);
  return std::move(out[0]);
}

}  // namespace fastcnn
