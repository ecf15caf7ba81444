// What it is: the tape that eager and traced code record for gradients: one TapeNode per differentiable op or
// view. What it is not: a graph to execute. Gradient rules (Vjp) call op functions, so backward is recorded like
// anything else, and double backward needs nothing extra.
#pragma once
#include <memory>
#include <vector>

#include "core/tensor_impl.h"
#include "graph/params_blob.h"

namespace fastcnn {

// Returns one gradient per input of the node; undefined entries mean "no gradient". grads[i] is undefined where no
// gradient reached output i.
using Vjp = std::vector<Tensor> (*)(TapeNode& node, const std::vector<Tensor>& grads);

// How an op is differentiated: its name in messages, its rule, and which operands the rule reads (bit masks).
struct Rule {
  const char* name;
  Vjp vjp = nullptr;
  uint32_t save_in = 0, save_out = 0;
};

class Region;  // checkpoint.h

struct TapeNode : std::enable_shared_from_this<TapeNode> {
  struct Slot {  // an input or output: always its shape and dtype, its tensor only where the rule needs it
    Tensor tensor;
    bool dropped = false;  // the region computes the tensor again when it is asked for
    Dims shape;
    DType dtype = DType::float32;
    Device device;
    uint64_t version = 0;
  };
  struct Edge {  // where the gradient of an input goes: a producer's output, or a leaf
    std::shared_ptr<TapeNode> node;
    int output = 0;
    std::shared_ptr<TensorImpl> leaf;
  };

  const Rule* rule = nullptr;
  Params params;
  std::vector<Slot> inputs, outputs;
  std::vector<Edge> edges;
  uint64_t sequence = 0;
  bool released = false;
  std::shared_ptr<Region> region;  // set for nodes recorded inside a checkpoint

  ~TapeNode();
  uint64_t wanted = ~uint64_t(0);  // inputs that the walk in progress leads somewhere through

  // Is the gradient of input i of use? Rules skip the work where not.
  bool needs(int i) const { return (edges[i].node || edges[i].leaf) && (i >= 64 || (wanted >> i & 1)); }
  Tensor input(int i) const;   // with its history; ValueError if it was changed in place since
  Tensor output(int i) const;  // likewise
  template <class P>
  const P& as() const {
    return params.as<P>();
  }
};

// Nothing is saved for backward any more.
void release_saved(TapeNode& node);

// Frees chains of nodes without recursion: nets may be thousands of ops deep.
void release_tape(std::shared_ptr<TapeNode>&& node);

// Puts outputs on the tape if gradients are on and an input requires one. Called by emit and by view ops.
void record_on_tape(const Rule& rule, const Params& params, const std::vector<Tensor>& inputs,
                    std::vector<Tensor>& outputs);

bool grad_enabled();
class GradMode {  // sets, and restores at the end of the scope
 public:
  explicit GradMode(bool on);
  ~GradMode();
  GradMode(const GradMode&) = delete;

 private:
  bool saved_;
};

}  // namespace fastcnn
