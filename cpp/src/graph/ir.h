// What it is: the graph that a trace records and passes rewrite: buffers, views of them (Value), nodes in order.
// What it is not: executable (plan.h) or differentiable (the tape recorded gradients as more nodes already).
// Nodes run in list order. A node may write a buffer that others read (in-place ops): passes keep those in order.
#pragma once
#include <string>
#include <vector>

#include "core/tensor_impl.h"
#include "graph/op_kinds.h"
#include "graph/params_blob.h"

namespace fastcnn {

const char* op_name(OpKind kind);

struct Buffer {
  enum class Kind { temporary, input, external };
  Kind kind = Kind::temporary;
  int64_t bytes = 0;
  Storage storage;  // external: parameters, states, constants; kept alive by the graph
};

struct Value {
  int buffer = -1;
  int64_t offset = 0;  // elements
  DType dtype = DType::float32;
  Dims shape, strides;

  bool defined() const { return buffer >= 0; }
  friend bool operator==(const Value&, const Value&) = default;
};

struct Node {
  OpKind kind{};
  Params params;
  std::vector<Value> in, out;
  int region = 0;  // work of different regions is never merged (checkpoint.h)
};

struct Graph {
  std::vector<Buffer> buffers;
  std::vector<Node> nodes;
  std::vector<Value> inputs, outputs;
  Device device;  // of all that nodes touch
};

// Does the value cover its whole buffer densely?
bool covers_buffer(const Graph& g, const Value& v);

// Takes out the nodes that are marked.
void erase_nodes(Graph& g, const std::vector<char>& gone);

// Who touches which buffer, by node index; rebuilt by passes after a change.
struct Uses {
  std::vector<std::vector<int>> readers, writers;
  explicit Uses(const Graph& g);
  bool single_writer(int buffer) const { return writers[buffer].size() == 1; }
};

// Is the value the same in every run unless somebody outside changes it: external memory that no node writes and
// that no view outside (NumPy, DLPack) can change unseen?
bool constant_external(const Graph& g, const Uses& uses, int buffer);

// Passes, in the order in which compile runs them; each is one file in passes/.
void simplify(Graph& g);          // common subexpressions, dead nodes
void channel_gate(Graph& g);      // the gradient of a factor per channel (squeeze and excitation) in two passes
void fuse(Graph& g);              // conv+bias+activation, batch_norm+residual+activation, and their backward twins
void norm_on_load(Graph& g);      // batch_norm without its result, where convolutions can make it as they read
void norm_bwd_on_load(Graph& g);  // batch_norm_bwd without its result, where the convolution before can make it
void depthwise_pointwise(Graph& g);  // depthwise convolutions with the 1x1 around them, in strips of rows
void conv2d_moments(Graph& g);       // statistics of a batch_norm out of the convolution before it
void schedule(Graph& g);             // optimizer steps where their gradients are born
void join_launches(Graph& g);        // small work that kernels take many of moves together (a device's plans)
// Nodes whose operands are constant (constant_external, or made by such nodes) leave g.nodes: a plan runs them
// once and again when a source has changed. Bounded: nothing large is kept that is cheap to make.
std::vector<Node> take_constant(Graph& g);

}  // namespace fastcnn
