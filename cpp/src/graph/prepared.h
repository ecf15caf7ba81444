// What it is: what a plan computes ahead of its steps: nodes on constants, and weights in the order of a kernel.
// It is made at the first run and again when a source storage has changed since, so weights may be loaded or
// updated between runs. What it is not: the choice of those nodes (passes/constant.cpp).
#pragma once
#include <utility>
#include <vector>

#include "backend/backend.h"
#include "graph/ir.h"

namespace fastcnn {

class Prepared {
 public:
  // `constants` write buffers of g that become external here; memory that no remaining node reads lives only while
  // weights are being prepared.
  Prepared(Graph& g, std::vector<Node> constants, Device device);

  // Are the weights of this node, operand 1, constant, so that a kernel may have them prepared?
  bool keeps(const Node& n) const { return n.in.size() > 1 && source_[n.in[1].buffer] != 0; }
  // Which operands of this node, a bit for each, may be prepared once for all runs by `impl`; 0 if any may not.
  uint32_t covered(const Implementation& impl, const Call& call, const Node& n) const;
  // `call` of node n reads these operands in prepared form from now on. Returns where that lies.
  const void* add(const Implementation& impl, const Call& call, const Node& n, uint32_t operands);
  // After the last add: which buffers still need memory of their own?
  void finish(Graph& g, const std::vector<char>& read_unprepared);

  void refresh(const Graph& g);  // cheap when nothing changed
  int64_t bytes() const { return bytes_; }
  size_t nodes() const { return nodes_.size(); }
  size_t operands() const { return operands_; }

 private:
  struct Source {
    Storage storage;
    uint64_t version = 0, exports_ended = 0;
  };
  struct Pack {
    const Implementation* implementation;
    Call call;  // its operands are copies below
    std::vector<Operand> in, out;
    std::vector<std::pair<size_t, Value>> values;  // by operand
    Storage memory;
  };

  Device device_;
  std::vector<Node> nodes_;
  std::vector<char> source_;  // by buffer: constant
  std::vector<int> transient_;
  std::vector<Source> sources_;
  std::vector<Pack> packs_;
  bool made_ = false;
  int64_t bytes_ = 0;
  size_t operands_ = 0;

  void make(const Graph& g);
};

}  // namespace fastcnn
