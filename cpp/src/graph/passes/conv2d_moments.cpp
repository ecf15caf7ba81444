// What it is: where a batch norm reads what a convolution made, the convolution gives the mean and variance of its
// result too, taken while each part of it is at hand, and the batch norm does not read it for them. What it is
// not: a change of implementation; where a convolution's own cannot do so, the batch norm keeps its pass.
#include <atomic>

#include "fastcnn/runtime.h"

#include "graph/ir.h"
#include "graph/select.h"

namespace fastcnn {
namespace {

std::atomic<bool> wanted{true};

class Conv2dMoments {
 public:
  explicit Conv2dMoments(Graph& g) : g_(g), uses_(g) {}

  void run() {
    for (int i = 0; i < static_cast<int>(g_.nodes.size()); ++i)
      if (g_.nodes[i].kind == OpKind::batch_norm) join(i);
  }

 private:
  Graph& g_;
  Uses uses_;

  void join(int i) {
    const Node& norm = g_.nodes[i];
    const Value& x = norm.in[0];
    if (norm.params.as<BatchNormParams>().has_moments || !uses_.single_writer(x.buffer)) return;
    const int w = uses_.writers[x.buffer][0];
    if (w >= i || g_.nodes[w].kind != OpKind::conv2d || g_.nodes[w].region != norm.region) return;
    Node conv = g_.nodes[w], reader = norm;
    auto& p = conv.params.as<Conv2dParams>();
    if (!(conv.out[0] == x) || p.O != norm.params.as<BatchNormParams>().C) return;
    const bool fresh = !p.has_moments;  // two norms may read one result
    if (fresh) {
      p.has_moments = 1;
      Value v;
      v.buffer = static_cast<int>(g_.buffers.size()), v.dtype = DType::float64;
      v.shape = {2, p.O}, v.strides = canonical_strides(v.shape);
      conv.out.push_back(v);
    }
    reader.params.as<BatchNormParams>().has_moments = 1;
    reader.in.push_back(conv.out[1]);
    if (!same_kernel(norm, reader, g_.device) || (fresh && !same_kernel(g_.nodes[w], conv, g_.device))) return;
    if (fresh) {
      const auto bytes = 2 * p.O * static_cast<int64_t>(dtype_size(DType::float64));
      g_.buffers.push_back({Buffer::Kind::temporary, bytes, nullptr});
      uses_.readers.push_back({});
      uses_.writers.push_back({w});
    }
    uses_.readers[conv.out[1].buffer].push_back(i);
    g_.nodes[w] = std::move(conv);
    g_.nodes[i] = std::move(reader);
  }
};

}  // namespace

void conv2d_moments(Graph& g) {
  if (wanted) Conv2dMoments(g).run();
}

void give_conv2d_moments(bool on) { wanted = on; }

}  // namespace fastcnn
