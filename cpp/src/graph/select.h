// What it is: the choice of an implementation: the first of the backend's list that does not decline.
// FASTCNN_VERBOSE=1 prints each choice once per distinct call with the reasons of those that declined.
#pragma once
#include <string>
#include <vector>

#include "backend/backend.h"
#include "core/tensor_impl.h"
#include "graph/ir.h"

namespace fastcnn {

Backend& backend_of(Device device);
Operand operand_of(const Tensor& t);
Operand operand_shape(const Value& v);  // without memory
const Implementation& select_implementation(Backend& backend, const Call& call);
// The same, unseen by FASTCNN_VERBOSE and by tests: a pass asks what a node would get. nullptr: nobody takes it.
const Implementation* would_select(Backend& backend, const Call& call);
const Implementation* kernel_of(const Node& n, Device device = {});  // the same for a node as it stands
// Better than the reference; on a device that has none, any.
bool has_kernel(const Node& n, Device device = {});
// Has the node as it becomes the kernel of the node as it was? A fusion must not move an op to a slower one.
bool same_kernel(const Node& before, const Node& after, Device device = {});

// May kernels apply a batch norm as they read this image, which passes ask before they choose one? The CPU's take
// float32, a device's 16 bits in memory of the plan, which is aligned; none without apply_norms_on_load().
bool loads_norms(const Graph& g, const Value& v);

// Names of the implementations chosen since the last call, for tests that prove which kernel ran.
void record_choices(bool on);
std::vector<std::string> take_choices();

}  // namespace fastcnn
