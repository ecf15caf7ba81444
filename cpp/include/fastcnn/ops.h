// What it is: every op of the library as a function on tensors, with gradients. One name from Python to kernel.
// Shapes are logical: images (N,C,H,W), conv weights (O,I/groups,kH,kW). Bad input throws ValueError, TypeError or
// IndexError naming the op, what it expected and what it got. Results are new tensors unless a name ends in _.
#pragma once
#include <array>
#include <concepts>
#include <optional>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "fastcnn/tensor.h"

namespace fastcnn {

// ---- creation -------------------------------------------------------------------------------------------------
FASTCNN_API Tensor full(const Dims& shape, double value, DType dtype = DType::float32, Device device = {});
FASTCNN_API Tensor zeros(const Dims& shape, DType dtype = DType::float32, Device device = {});
FASTCNN_API Tensor ones(const Dims& shape, DType dtype = DType::float32, Device device = {});
FASTCNN_API Tensor arange(double start, double end, double step = 1, DType dtype = DType::int64,
                          Device device = {});
// count numbers from start to end, which is the last of them.
FASTCNN_API Tensor linspace(double start, double end, int64_t count, DType dtype = DType::float32,
                            Device device = {});
FASTCNN_API Tensor eye(int64_t rows, int64_t columns, DType dtype = DType::float32, Device device = {});
FASTCNN_API Tensor rand(const Dims& shape, DType dtype = DType::float32, Device device = {});   // uniform [0, 1)
FASTCNN_API Tensor randn(const Dims& shape, DType dtype = DType::float32, Device device = {});  // standard normal
FASTCNN_API Tensor randint(int64_t low, int64_t high, const Dims& shape, DType dtype = DType::int64,
                           Device device = {});
FASTCNN_API Tensor bernoulli(const Tensor& p);  // ones with these probabilities, else zeros; without gradients
FASTCNN_API Tensor randperm(int64_t n, DType dtype = DType::int64,
                            Device device = {});  // 0 … n - 1 in random order
FASTCNN_API void manual_seed(uint64_t seed);
FASTCNN_API Tensor random_state(Device device = {});  // int64 (2): seed, counter; the state itself, not a copy

// ---- elementwise (elementwise.cpp)
// ------------------------------------------------------------------------------ Operands broadcast as in NumPy;
// mixed dtypes promote as in PyTorch (promote.h).
FASTCNN_API Tensor add(const Tensor& a, const Tensor& b);
FASTCNN_API Tensor sub(const Tensor& a, const Tensor& b);
FASTCNN_API Tensor mul(const Tensor& a, const Tensor& b);
FASTCNN_API Tensor div(const Tensor& a, const Tensor& b);
FASTCNN_API Tensor pow(const Tensor& a, const Tensor& b);
FASTCNN_API Tensor maximum(const Tensor& a, const Tensor& b);
FASTCNN_API Tensor minimum(const Tensor& a, const Tensor& b);
FASTCNN_API Tensor remainder(const Tensor& a, const Tensor& b);
FASTCNN_API Tensor floor_divide(const Tensor& a, const Tensor& b);
FASTCNN_API Tensor eq(const Tensor& a, const Tensor& b);
FASTCNN_API Tensor ne(const Tensor& a, const Tensor& b);
FASTCNN_API Tensor lt(const Tensor& a, const Tensor& b);
FASTCNN_API Tensor le(const Tensor& a, const Tensor& b);
FASTCNN_API Tensor gt(const Tensor& a, const Tensor& b);
FASTCNN_API Tensor ge(const Tensor& a, const Tensor& b);
FASTCNN_API Tensor logical_and(const Tensor& a, const Tensor& b);
FASTCNN_API Tensor logical_or(const Tensor& a, const Tensor& b);
FASTCNN_API Tensor logical_xor(const Tensor& a, const Tensor& b);
FASTCNN_API Tensor logical_not(const Tensor& x);
FASTCNN_API Tensor where(const Tensor& condition, const Tensor& a, const Tensor& b);

FASTCNN_API Tensor affine(const Tensor& x, double alpha, double beta);  // alpha*x + beta
FASTCNN_API Tensor neg(const Tensor& x);
FASTCNN_API Tensor pow_scalar(const Tensor& x, double exponent);
FASTCNN_API Tensor rpow_scalar(double base, const Tensor& x);
FASTCNN_API Tensor rdiv_scalar(double numerator, const Tensor& x);
FASTCNN_API Tensor div_scalar(const Tensor& x, double divisor);  // with the bits of div; integers become float32
FASTCNN_API Tensor clamp(const Tensor& x, std::optional<double> low, std::optional<double> high);
FASTCNN_API Tensor abs(const Tensor& x);
FASTCNN_API Tensor exp(const Tensor& x);
FASTCNN_API Tensor expm1(const Tensor& x);
FASTCNN_API Tensor log(const Tensor& x);
FASTCNN_API Tensor log1p(const Tensor& x);
FASTCNN_API Tensor log2(const Tensor& x);
FASTCNN_API Tensor sqrt(const Tensor& x);
FASTCNN_API Tensor rsqrt(const Tensor& x);
FASTCNN_API Tensor square(const Tensor& x);
FASTCNN_API Tensor reciprocal(const Tensor& x);
FASTCNN_API Tensor sign(const Tensor& x);
FASTCNN_API Tensor floor(const Tensor& x);
FASTCNN_API Tensor ceil(const Tensor& x);
FASTCNN_API Tensor round(const Tensor& x);
FASTCNN_API Tensor sin(const Tensor& x);
FASTCNN_API Tensor cos(const Tensor& x);
FASTCNN_API Tensor erf(const Tensor& x);
FASTCNN_API Tensor atan(const Tensor& x);
FASTCNN_API Tensor isnan(const Tensor& x);
FASTCNN_API Tensor isinf(const Tensor& x);
FASTCNN_API Tensor isfinite(const Tensor& x);

FASTCNN_API Tensor cast(const Tensor& x, DType dtype);  // x itself when it has that dtype
FASTCNN_API Tensor clone(const Tensor& x);              // new memory, canonical layout
FASTCNN_API Tensor contiguous(const Tensor& x);         // x itself when it is dense and canonical
FASTCNN_API Tensor to_device(const Tensor& x, Device device);
// x's values as they are now, on a device: within a function that is being compiled a constant of its plan. An
// error for results of that function.
FASTCNN_API Tensor constant(const Tensor& x, Device device);
FASTCNN_API void copy_(const Tensor& dst, const Tensor& src);  // casts and broadcasts
FASTCNN_API void fill_(const Tensor& dst, double value);
FASTCNN_API void add_(const Tensor& dst, const Tensor& src);
FASTCNN_API void sub_(const Tensor& dst, const Tensor& src);
FASTCNN_API void mul_(const Tensor& dst, const Tensor& src);
FASTCNN_API void affine_(const Tensor& dst, double alpha, double beta);

// ---- reductions (reduce.cpp); no dims: over all
// ------------------------------------------------------------------
FASTCNN_API Tensor sum(const Tensor& x, const std::vector<int>& dims = {}, bool keepdim = false);
FASTCNN_API Tensor mean(const Tensor& x, const std::vector<int>& dims = {}, bool keepdim = false);
FASTCNN_API Tensor prod(const Tensor& x, const std::vector<int>& dims = {}, bool keepdim = false);
FASTCNN_API Tensor amax(const Tensor& x, const std::vector<int>& dims = {}, bool keepdim = false);
FASTCNN_API Tensor amin(const Tensor& x, const std::vector<int>& dims = {}, bool keepdim = false);
FASTCNN_API Tensor any(const Tensor& x, const std::vector<int>& dims = {}, bool keepdim = false);
FASTCNN_API Tensor all(const Tensor& x, const std::vector<int>& dims = {}, bool keepdim = false);
// float32 (): 1 where any number of any of the tensors is NaN or infinite, else 0. Without gradients.
FASTCNN_API Tensor non_finite(const std::vector<Tensor>& xs);
// The sum over the processes of the job, in each the same (distributed.h); x itself where there is but one.
FASTCNN_API Tensor all_reduce(const Tensor& x);
FASTCNN_API Tensor var(const Tensor& x, const std::vector<int>& dims = {}, double correction = 1,
                       bool keepdim = false);
// The root of var (PyTorch's std); its gradient is 0 where all elements are equal.
FASTCNN_API Tensor deviation(const Tensor& x, const std::vector<int>& dims = {}, double correction = 1,
                             bool keepdim = false);
FASTCNN_API Tensor argmax(const Tensor& x, std::optional<int> dim = {}, bool keepdim = false);
FASTCNN_API Tensor argmin(const Tensor& x, std::optional<int> dim = {}, bool keepdim = false);
FASTCNN_API Tensor norm(const Tensor& x, double p = 2, const std::vector<int>& dims = {}, bool keepdim = false);

// ---- shape (shape.cpp): views where possible
// ---------------------------------------------------------------------
FASTCNN_API Tensor reshape(const Tensor& x, const Dims& shape);  // one size may be -1
FASTCNN_API Tensor flatten(const Tensor& x, int start_dim = 0, int end_dim = -1);
FASTCNN_API Tensor unflatten(const Tensor& x, int dim, const Dims& sizes);  // one size may be -1
FASTCNN_API Tensor squeeze(const Tensor& x, std::optional<int> dim = {});
FASTCNN_API Tensor unsqueeze(const Tensor& x, int dim);
FASTCNN_API Tensor permute(const Tensor& x, const std::vector<int>& dims);
FASTCNN_API Tensor transpose(const Tensor& x, int dim0, int dim1);
FASTCNN_API Tensor expand(const Tensor& x, const Dims& shape);  // -1 keeps a size
FASTCNN_API Tensor sum_to(const Tensor& x, const Dims& shape);  // undoes a broadcast
FASTCNN_API Tensor narrow(const Tensor& x, int dim, int64_t start, int64_t length);
FASTCNN_API Tensor slice(const Tensor& x, int dim, int64_t start, int64_t end,
                         int64_t step = 1);  // step may be < 0
FASTCNN_API Tensor select(const Tensor& x, int dim, int64_t index);
FASTCNN_API Tensor flip(const Tensor& x, const std::vector<int>& dims);
FASTCNN_API Tensor cat(const std::vector<Tensor>& xs, int dim = 0);
FASTCNN_API Tensor stack(const std::vector<Tensor>& xs, int dim = 0);
FASTCNN_API std::vector<Tensor> split(const Tensor& x, int64_t size, int dim = 0);
FASTCNN_API std::vector<Tensor> split(const Tensor& x, const std::vector<int64_t>& sizes, int dim);
FASTCNN_API Tensor index_select(const Tensor& x, int dim, const Tensor& index);
FASTCNN_API Tensor gather(const Tensor& x, int dim, const Tensor& index);
// x with src[i, j, …] added where index[i, j, …] points to along dim; elements of src beyond index are left out.
FASTCNN_API Tensor scatter_add(const Tensor& x, int dim, const Tensor& index, const Tensor& src);
// Elements where the mask, which broadcasts with x, is true, (count); not while compile traces.
FASTCNN_API Tensor masked_select(const Tensor& x, const Tensor& mask);
// Places of the elements that are not zero, an int64 vector per dim; read on the host, so not while compile
// traces.
FASTCNN_API std::vector<Tensor> nonzero(const Tensor& x);
// Rows of weight (V,D) at ids (…): (…,D); the row padding_idx gets no gradient.
FASTCNN_API Tensor embedding(const Tensor& ids, const Tensor& weight, std::optional<int64_t> padding_idx = {});
// x (n) with values (m) at index (m), of equal indices the last; without gradients.
FASTCNN_API Tensor index_put(const Tensor& x, const Tensor& index, const Tensor& values);
FASTCNN_API Tensor masked_fill(const Tensor& x, const Tensor& mask, double value);
FASTCNN_API Tensor one_hot(const Tensor& ids, int64_t num_classes, DType dtype = DType::float32);
// before/after per dim from the last dim backwards, as torch: {left, right, top, bottom, …}; modes: constant,
// reflect, replicate, circular
FASTCNN_API Tensor pad(const Tensor& x, const std::vector<int64_t>& pads, const std::string& mode = "constant",
                       double value = 0);

// ---- convolution and linear (conv2d.cpp, linear.cpp)
// --------------------------------------------------------------
struct Conv2dOptions {
  std::pair<int64_t, int64_t> stride{1, 1}, dilation{1, 1};
  int64_t pad_top = 0, pad_bottom = 0, pad_left = 0, pad_right = 0;
  std::string padding;  // "" (use the numbers), "same" (any stride: output = ceil(in/stride)), "valid"
  int64_t groups = 1;
  std::string padding_mode = "zeros";                // zeros, reflect, replicate, circular
  std::pair<int64_t, int64_t> output_padding{0, 0};  // conv_transpose2d
};
FASTCNN_API Tensor conv2d(const Tensor& x, const Tensor& w, const Tensor& bias = {}, const Conv2dOptions& o = {});
// x (N,I,H,W), w (I,O/groups,kH,kW)
FASTCNN_API Tensor conv_transpose2d(const Tensor& x, const Tensor& w, const Tensor& bias = {},
                                    const Conv2dOptions& o = {});
FASTCNN_API Tensor linear(const Tensor& x, const Tensor& w, const Tensor& bias = {});  // x (…,I), w (O,I)
FASTCNN_API Tensor matmul(const Tensor& a, const Tensor& b);  // 1-D, 2-D and batched with broadcasting, as NumPy

// ---- made of other ops (composed.cpp), as PyTorch's of these names
// --------------------------------------------------------------
FASTCNN_API Tensor logsumexp(const Tensor& x, const std::vector<int>& dims, bool keepdim = false);
FASTCNN_API Tensor normalize(const Tensor& x, double p = 2, int dim = 1, double eps = 1e-12);
// Elements move by shifts along dims, those beyond an end to the other one; no dims: of the flat tensor.
FASTCNN_API Tensor roll(const Tensor& x, const std::vector<int64_t>& shifts, const std::vector<int>& dims = {});
FASTCNN_API Tensor channel_shuffle(const Tensor& x, int64_t groups);  // x (N,C,…)
// theta (N,2,3), size (N,C,H,W) -> points (N,H,W,2) for grid_sample.
FASTCNN_API Tensor affine_grid(const Tensor& theta, const Dims& size, bool align_corners = false);
// eps: default that of the statistics' dtype.
FASTCNN_API Tensor rms_norm(const Tensor& x, const Dims& normalized_shape, const Tensor& weight = {},
                            std::optional<double> eps = {});
// query (…,L,E), key (…,S,E), value (…,S,V) -> (…,L,V). mask: bool, true where key takes part, or added to the
// scores.
FASTCNN_API Tensor scaled_dot_product_attention(const Tensor& query, const Tensor& key, const Tensor& value,
                                                const Tensor& mask = {}, double dropout_p = 0,
                                                bool is_causal = false, std::optional<double> scale = {});
FASTCNN_API Tensor bmm(const Tensor& a, const Tensor& b);  // (B,M,K) and (B,K,N)
// "ij,jk->ik": sums of products over the dims that the result does not name; "..." for dims that are broadcast.
FASTCNN_API Tensor einsum(const std::string& equation, const std::vector<Tensor>& operands);
FASTCNN_API Tensor tril(const Tensor& x, int64_t diagonal = 0);  // zeros above that diagonal of each matrix
FASTCNN_API Tensor triu(const Tensor& x, int64_t diagonal = 0);  // zeros below it
FASTCNN_API Tensor repeat(const Tensor& x,
                          const std::vector<int64_t>& times);  // the whole, per dim; more dims in front
FASTCNN_API Tensor repeat_interleave(const Tensor& x, int64_t times, int dim);  // each element
FASTCNN_API Tensor outer(const Tensor& a, const Tensor& b);                     // (M) and (N): (M,N)
FASTCNN_API Tensor isclose(const Tensor& a, const Tensor& b, double rtol = 1e-5, double atol = 1e-8,
                           bool equal_nan = false);
FASTCNN_API bool allclose(const Tensor& a, const Tensor& b, double rtol = 1e-5, double atol = 1e-8,
                          bool equal_nan = false);
// The coordinates that vectors give as grids of all of them; "xy": with the first two dims swapped.
FASTCNN_API std::vector<Tensor> meshgrid(const std::vector<Tensor>& axes, const std::string& indexing = "ij");

// ---- order (sort.cpp): NaN counts as the largest, equal values stay in their order
FASTCNN_API Tensor argsort(const Tensor& x, int dim = -1, bool descending = false);  // int64
FASTCNN_API std::pair<Tensor, Tensor> sort(const Tensor& x, int dim = -1, bool descending = false);
// The k largest or smallest along dim, in order, and their places.
FASTCNN_API std::pair<Tensor, Tensor> topk(const Tensor& x, int64_t k, int dim = -1, bool largest = true);
// The different elements of all of x in order (each NaN is one); where in them each element of x lies, and how
// often each occurs, int64. Not while compile traces.
struct Unique {
  Tensor values, inverse, counts;
};
FASTCNN_API Unique unique(const Tensor& x);
FASTCNN_API Tensor cumsum(const Tensor& x, int dim);  // of integers and bools int64

// ---- int8, for inference (quantized.cpp): uint8 tensors stand for (q - zero) * scale; no gradients ----
FASTCNN_API Tensor quantize(const Tensor& x, double scale, int64_t zero);
FASTCNN_API Tensor dequantize(const Tensor& x, double scale, int64_t zero);
struct QuantizedConv2dOptions {
  int64_t x_zero = 0, low = 0, high = 255;
  bool to_float = false;  // the result is float32, neither rounded nor clamped
  Tensor residual;        // uint8, of the result's shape
  double residual_multiplier = 0;
};
// x (N,C,H,W) uint8, w (O,C/groups,kH,kW) int8, multiplier and offset (O) float32. The result is uint8
// clamp(round(acc * multiplier + offset + residual * residual_multiplier), low, high), acc the int32 sum of
// (x - x_zero) * w; padding stands for zeros.
FASTCNN_API Tensor quantized_conv2d(const Tensor& x, const Tensor& w, const Tensor& multiplier,
                                    const Tensor& offset, const Conv2dOptions& o = {},
                                    const QuantizedConv2dOptions& q = {});

// ---- pooling (pool2d.cpp)
// -----------------------------------------------------------------------------------------
struct Pool2dOptions {
  std::pair<int64_t, int64_t> kernel{2, 2}, stride{0, 0}, padding{0, 0}, dilation{1, 1};  // stride 0: = kernel
  bool ceil_mode = false, count_include_pad = true;
  std::optional<int64_t> divisor_override{};  // of avg_pool2d: sums are divided by it
};
FASTCNN_API Tensor max_pool2d(const Tensor& x, const Pool2dOptions& o);
FASTCNN_API std::pair<Tensor, Tensor> max_pool2d_with_indices(const Tensor& x, const Pool2dOptions& o);  // int64
FASTCNN_API Tensor avg_pool2d(const Tensor& x, const Pool2dOptions& o);
FASTCNN_API Tensor lp_pool2d(const Tensor& x, double p, const Pool2dOptions& o);
FASTCNN_API Tensor adaptive_avg_pool2d(const Tensor& x, std::pair<int64_t, int64_t> size);
FASTCNN_API Tensor adaptive_max_pool2d(const Tensor& x, std::pair<int64_t, int64_t> size);
FASTCNN_API std::pair<Tensor, Tensor> adaptive_max_pool2d_with_indices(const Tensor& x,
                                                                       std::pair<int64_t, int64_t> size);
FASTCNN_API Tensor global_avg_pool2d(const Tensor& x);  // (N,C,1,1)

// ---- sequences (N,C,L) or (C,L) (conv1d.cpp): the 2-D ops on images of one row
struct Conv1dOptions {
  int64_t stride = 1, dilation = 1, pad_left = 0, pad_right = 0;
  std::string padding;  // as Conv2dOptions
  int64_t groups = 1;
  std::string padding_mode = "zeros";
  int64_t output_padding = 0;  // conv_transpose1d
};
FASTCNN_API Tensor conv1d(const Tensor& x, const Tensor& w, const Tensor& bias = {}, const Conv1dOptions& o = {});
// x (N,I,L), w (I,O/groups,k)
FASTCNN_API Tensor conv_transpose1d(const Tensor& x, const Tensor& w, const Tensor& bias = {},
                                    const Conv1dOptions& o = {});
struct Pool1dOptions {
  int64_t kernel = 2, stride = 0, padding = 0, dilation = 1;  // stride 0: = kernel
  bool ceil_mode = false, count_include_pad = true;
};
FASTCNN_API Tensor lp_pool1d(const Tensor& x, double p, const Pool1dOptions& o);
FASTCNN_API Tensor max_pool1d(const Tensor& x, const Pool1dOptions& o);
FASTCNN_API std::pair<Tensor, Tensor> max_pool1d_with_indices(const Tensor& x, const Pool1dOptions& o);  // int64
FASTCNN_API Tensor avg_pool1d(const Tensor& x, const Pool1dOptions& o);
FASTCNN_API Tensor adaptive_avg_pool1d(const Tensor& x, int64_t size);
FASTCNN_API Tensor adaptive_max_pool1d(const Tensor& x, int64_t size);
FASTCNN_API std::pair<Tensor, Tensor> adaptive_max_pool1d_with_indices(const Tensor& x, int64_t size);

// ---- volumes (N,C,D,H,W) or (C,D,H,W) (conv3d.cpp, pool3d.cpp): the 2-D ops on frames, then along the depth
struct Conv3dOptions {
  std::array<int64_t, 3> stride{1, 1, 1}, dilation{1, 1, 1}, pad_before{0, 0, 0}, pad_after{0, 0, 0};
  std::string padding;  // as Conv2dOptions
  int64_t groups = 1;
  std::string padding_mode = "zeros";
  std::array<int64_t, 3> output_padding{0, 0, 0};  // conv_transpose3d
};
FASTCNN_API Tensor conv3d(const Tensor& x, const Tensor& w, const Tensor& bias = {}, const Conv3dOptions& o = {});
// x (N,I,D,H,W), w (I,O/groups,kD,kH,kW)
FASTCNN_API Tensor conv_transpose3d(const Tensor& x, const Tensor& w, const Tensor& bias = {},
                                    const Conv3dOptions& o = {});
struct Pool3dOptions {
  std::array<int64_t, 3> kernel{2, 2, 2}, stride{0, 0, 0}, padding{0, 0, 0},
      dilation{1, 1, 1};  // stride 0: = kernel
  bool ceil_mode = false, count_include_pad = true;
  std::optional<int64_t> divisor_override{};  // of avg_pool3d: sums are divided by it
};
FASTCNN_API Tensor max_pool3d(const Tensor& x, const Pool3dOptions& o);
FASTCNN_API std::pair<Tensor, Tensor> max_pool3d_with_indices(const Tensor& x, const Pool3dOptions& o);  // int64
FASTCNN_API Tensor avg_pool3d(const Tensor& x, const Pool3dOptions& o);
FASTCNN_API Tensor adaptive_avg_pool3d(const Tensor& x, std::array<int64_t, 3> size);
FASTCNN_API Tensor adaptive_max_pool3d(const Tensor& x, std::array<int64_t, 3> size);
FASTCNN_API std::pair<Tensor, Tensor> adaptive_max_pool3d_with_indices(const Tensor& x,
                                                                       std::array<int64_t, 3> size);

// ---- windows as columns (unfold.cpp)
struct UnfoldOptions {
  std::pair<int64_t, int64_t> kernel{1, 1}, dilation{1, 1}, padding{0, 0}, stride{1, 1};
};
FASTCNN_API Tensor unfold(const Tensor& x, const UnfoldOptions& o);  // (N,C,H,W) to (N, C*kH*kW, windows)
// The transpose of unfold: what lies in several windows is added up.
FASTCNN_API Tensor fold(const Tensor& x, std::pair<int64_t, int64_t> size, const UnfoldOptions& o);
// x at the indices of max_pool2d_with_indices, zeros elsewhere, in images of `size`.
FASTCNN_API Tensor max_unpool2d(const Tensor& x, const Tensor& indices, std::pair<int64_t, int64_t> size);

// ---- normalisation (norm.cpp)
// ------------------------------------------------------------------------------------- Training uses batch
// statistics and, where given, updates the running ones in place; gamma, beta may be empty.
FASTCNN_API Tensor batch_norm(const Tensor& x, const Tensor& running_mean, const Tensor& running_var,
                              const Tensor& gamma, const Tensor& beta, bool training, double momentum = 0.1,
                              double eps = 1e-5, const Tensor& num_batches_tracked = {});
FASTCNN_API Tensor layer_norm(const Tensor& x, const Dims& normalized_shape, const Tensor& gamma = {},
                              const Tensor& beta = {}, double eps = 1e-5);
FASTCNN_API Tensor group_norm(const Tensor& x, int64_t groups, const Tensor& gamma = {}, const Tensor& beta = {},
                              double eps = 1e-5);
FASTCNN_API Tensor instance_norm(const Tensor& x, const Tensor& gamma = {}, const Tensor& beta = {},
                                 double eps = 1e-5);
FASTCNN_API Tensor local_response_norm(const Tensor& x, int64_t size, double alpha = 1e-4, double beta = 0.75,
                                       double k = 1);

// ---- activations (activation.cpp)
// ---------------------------------------------------------------------------------
FASTCNN_API Tensor activation(const Tensor& x, const ActParams& act);
FASTCNN_API Tensor relu(const Tensor& x);
FASTCNN_API Tensor relu6(const Tensor& x);
FASTCNN_API Tensor leaky_relu(const Tensor& x, double negative_slope = 0.01);
FASTCNN_API Tensor prelu(const Tensor& x, const Tensor& weight);  // weight (1) or (C)
FASTCNN_API Tensor elu(const Tensor& x, double alpha = 1);
FASTCNN_API Tensor selu(const Tensor& x);
FASTCNN_API Tensor celu(const Tensor& x, double alpha = 1);
FASTCNN_API Tensor gelu(const Tensor& x, const std::string& approximate = "none");  // or "tanh"
FASTCNN_API Tensor silu(const Tensor& x);
FASTCNN_API Tensor mish(const Tensor& x);
FASTCNN_API Tensor hardswish(const Tensor& x);
FASTCNN_API Tensor hardsigmoid(const Tensor& x);
FASTCNN_API Tensor hardtanh(const Tensor& x, double low = -1, double high = 1);
FASTCNN_API Tensor sigmoid(const Tensor& x);
FASTCNN_API Tensor tanh(const Tensor& x);
FASTCNN_API Tensor softplus(const Tensor& x, double beta = 1, double threshold = 20);
FASTCNN_API Tensor softsign(const Tensor& x);
FASTCNN_API Tensor softmax(const Tensor& x, int dim);
FASTCNN_API Tensor log_softmax(const Tensor& x, int dim);

// ---- activations that are compositions (composed_activation.cpp)
FASTCNN_API Tensor logsigmoid(const Tensor& x);
FASTCNN_API Tensor glu(const Tensor& x, int dim = -1);  // one half times the sigmoid of the other
FASTCNN_API Tensor softshrink(const Tensor& x, double lambd = 0.5);
FASTCNN_API Tensor hardshrink(const Tensor& x, double lambd = 0.5);
FASTCNN_API Tensor tanhshrink(const Tensor& x);
FASTCNN_API Tensor threshold(const Tensor& x, double threshold, double value);  // value where x <= threshold
// Training: a slope of its own for each element below 0, drawn between lower and upper.
FASTCNN_API Tensor rrelu(const Tensor& x, double lower = 1.0 / 8, double upper = 1.0 / 3, bool training = false);
FASTCNN_API Tensor softmin(const Tensor& x, int dim);

// ---- dropout (dropout.cpp)
// ----------------------------------------------------------------------------------------
FASTCNN_API Tensor dropout(const Tensor& x, double p = 0.5, bool training = true);
FASTCNN_API Tensor dropout2d(const Tensor& x, double p = 0.5, bool training = true);  // whole channels
FASTCNN_API Tensor drop_path(const Tensor& x, double p = 0.0, bool training = true);  // whole samples
// Of nets with SELU (composed_activation.cpp); the second one of whole channels.
FASTCNN_API Tensor alpha_dropout(const Tensor& x, double p = 0.5, bool training = false);
FASTCNN_API Tensor feature_alpha_dropout(const Tensor& x, double p = 0.5, bool training = false);

// ---- resampling (resample.cpp) ----

// Either size or scale; modes nearest, nearest-exact, area (means of what lies under a pixel), bilinear, bicubic.
FASTCNN_API Tensor interpolate(const Tensor& x, std::optional<std::pair<int64_t, int64_t>> size,
                               std::optional<std::pair<double, double>> scale, const std::string& mode = "nearest",
                               bool align_corners = false, bool antialias = false);
// The same of sequences (N,C,L) and volumes (N,C,D,H,W); "linear" and "trilinear" in place of "bilinear".
FASTCNN_API Tensor interpolate1d(const Tensor& x, std::optional<int64_t> size, std::optional<double> scale,
                                 const std::string& mode = "nearest", bool align_corners = false);
FASTCNN_API Tensor interpolate3d(const Tensor& x, std::optional<std::array<int64_t, 3>> size,
                                 std::optional<std::array<double, 3>> scale, const std::string& mode = "nearest",
                                 bool align_corners = false);
// Pixel (o_x, o_y) of image n of the result is x at matrix[n] * (o_x, o_y, 1): free points of images, for
// augmentation (sample.cpp). Not differentiable.
struct AffineSampleOptions {
  std::optional<std::pair<int64_t, int64_t>> size;  // default: that of x
  std::string mode = "bilinear";                    // nearest, bilinear, bicubic
  std::string fill_mode = "constant";               // constant, edge, reflect, symmetric
  bool antialias = false;
  Tensor fill;          // float32 (C); default 0
  Tensor displacement;  // float32 (N, 2, oH, oW): added to x and y in pixels of x
  Tensor color;         // float32 (N, stages, C*(2C + 1) + 1), see sample_stage_floats
  Tensor norm;          // float32 (2, C): the result is float32, values * norm[0] + norm[1]
};
FASTCNN_API Tensor affine_sample(const Tensor& x, const Tensor& matrix, const AffineSampleOptions& options = {});
// Images at the points (x, y) of grid (N, h, w, 2), where -1 and 1 are the ends of an image (grid_sample.cpp).
// mode: bilinear, nearest, bicubic; padding_mode: zeros, border, reflection.
FASTCNN_API Tensor grid_sample(const Tensor& x, const Tensor& grid, const std::string& mode = "bilinear",
                               const std::string& padding_mode = "zeros", bool align_corners = false);
FASTCNN_API Tensor pixel_shuffle(const Tensor& x, int64_t factor);
FASTCNN_API Tensor pixel_unshuffle(const Tensor& x, int64_t factor);

// ---- losses (loss.cpp); reduction: none, mean, sum
// ---------------------------------------------------------------- target: class ids (N[,H,W]) int64, or
// probabilities of the shape of logits (N,C[,H,W])
FASTCNN_API Tensor cross_entropy(const Tensor& logits, const Tensor& target, const Tensor& weight = {},
                                 int64_t ignore_index = -100, const std::string& reduction = "mean",
                                 double label_smoothing = 0);
FASTCNN_API Tensor nll_loss(const Tensor& log_probs, const Tensor& target, const Tensor& weight = {},
                            int64_t ignore_index = -100, const std::string& reduction = "mean");
FASTCNN_API Tensor binary_cross_entropy_with_logits(const Tensor& x, const Tensor& target,
                                                    const Tensor& weight = {}, const Tensor& pos_weight = {},
                                                    const std::string& reduction = "mean");
FASTCNN_API Tensor mse_loss(const Tensor& x, const Tensor& target, const std::string& reduction = "mean");
FASTCNN_API Tensor l1_loss(const Tensor& x, const Tensor& target, const std::string& reduction = "mean");
FASTCNN_API Tensor smooth_l1_loss(const Tensor& x, const Tensor& target, double beta = 1,
                                  const std::string& reduction = "mean");
FASTCNN_API Tensor huber_loss(const Tensor& x, const Tensor& target, double delta = 1,
                              const std::string& reduction = "mean");
FASTCNN_API Tensor kl_div(const Tensor& log_probs, const Tensor& target, const std::string& reduction = "mean",
                          bool log_target = false);  // also batchmean

// ---- losses of detectors, segmentation, capsules and GANs (composed_loss.cpp, box_loss.cpp)
// Focal loss of logits (Lin et al. 2017): -alpha_t (1 - p_t)^gamma log p_t; alpha < 0: unweighted.
FASTCNN_API Tensor focal_loss(const Tensor& x, const Tensor& target, double alpha = 0.25, double gamma = 2,
                              const std::string& reduction = "mean");
// 1 - Dice coefficient of each class, over batch and places, of logits (N,C,…) and ids (N,…) or probabilities.
FASTCNN_API Tensor dice_loss(const Tensor& x, const Tensor& target, double smooth = 1, bool multilabel = false,
                             int64_t ignore_index = -100, const std::string& reduction = "mean");
// Capsule lengths (N,C) against ids (N) or 0 and 1 (N,C) (Sabour et al. 2017); reduction none: (N).
FASTCNN_API Tensor margin_loss(const Tensor& x, const Tensor& target, double positive = 0.9, double negative = 0.1,
                               double down_weight = 0.5, const std::string& reduction = "mean");
// Scores of a discriminator on `target` "real" or "fake" images, or of the "generator"'s images for its sake.
FASTCNN_API Tensor hinge_gan_loss(const Tensor& x, const std::string& target,
                                  const std::string& reduction = "mean");
// Pairs of boxes (…,4), x1 y1 x2 y2; reduction none: (…).
FASTCNN_API Tensor giou_loss(const Tensor& boxes1, const Tensor& boxes2, const std::string& reduction = "mean",
                             double eps = 1e-7);
FASTCNN_API Tensor ciou_loss(const Tensor& boxes1, const Tensor& boxes2, const std::string& reduction = "mean",
                             double eps = 1e-7);

// ---- losses of probabilities, scores and rates (likelihood_loss.cpp)
// Of probabilities; logarithms count as at least -100. weight: of each element.
FASTCNN_API Tensor binary_cross_entropy(const Tensor& x, const Tensor& target, const Tensor& weight = {},
                                        const std::string& reduction = "mean");
FASTCNN_API Tensor soft_margin_loss(const Tensor& x, const Tensor& target, const std::string& reduction = "mean");
FASTCNN_API Tensor multilabel_soft_margin_loss(const Tensor& x, const Tensor& target, const Tensor& weight = {},
                                               const std::string& reduction = "mean");
// Scores (N,C) or (C) against class ids (N) or (); p 1 or 2.
FASTCNN_API Tensor multi_margin_loss(const Tensor& x, const Tensor& target, int64_t p = 1, double margin = 1,
                                     const Tensor& weight = {}, const std::string& reduction = "mean");
FASTCNN_API Tensor poisson_nll_loss(const Tensor& x, const Tensor& target, bool log_input = true,
                                    bool full_loss = false, double eps = 1e-8,
                                    const std::string& reduction = "mean");
FASTCNN_API Tensor gaussian_nll_loss(const Tensor& x, const Tensor& target, const Tensor& var,
                                     bool full_loss = false, double eps = 1e-6,
                                     const std::string& reduction = "mean");

// ---- distances of vectors and losses that rank by them (distance_loss.cpp)
FASTCNN_API Tensor pairwise_distance(const Tensor& x1, const Tensor& x2, double p = 2, double eps = 1e-6,
                                     bool keepdim = false);  // along the last dim
FASTCNN_API Tensor cosine_similarity(const Tensor& x1, const Tensor& x2, int dim = 1, double eps = 1e-8);
FASTCNN_API Tensor triplet_margin_loss(const Tensor& anchor, const Tensor& positive, const Tensor& negative,
                                       double margin = 1, double p = 2, double eps = 1e-6, bool swap = false,
                                       const std::string& reduction = "mean");
// target: 1 where x1 should be larger, -1 where x2 should.
FASTCNN_API Tensor margin_ranking_loss(const Tensor& x1, const Tensor& x2, const Tensor& target, double margin = 0,
                                       const std::string& reduction = "mean");
// Distances x against target 1 (alike) or -1.
FASTCNN_API Tensor hinge_embedding_loss(const Tensor& x, const Tensor& target, double margin = 1,
                                        const std::string& reduction = "mean");
FASTCNN_API Tensor cosine_embedding_loss(const Tensor& x1, const Tensor& x2, const Tensor& target,
                                         double margin = 0, const std::string& reduction = "mean");

// ---- boxes (detect.cpp): x1 y1 x2 y2
FASTCNN_API Tensor box_iou(const Tensor& boxes1, const Tensor& boxes2);  // (N,4), (M,4) -> (N,M)
// Numbers (int64) of the boxes (N,4) that are kept, best score (N) first; boxes of different groups (N) do not
// meet. max_output: at most so many, and -1 behind the last, so that the shape is known before the values are.
FASTCNN_API Tensor nms(const Tensor& boxes, const Tensor& scores, double iou_threshold, const Tensor& groups = {},
                       std::optional<int64_t> max_output = {});
// x (N,C,H,W), boxes (K,5): image and box, times spatial_scale in pixels of x -> (K,C,h,w).
FASTCNN_API Tensor roi_align(const Tensor& x, const Tensor& boxes, std::pair<int64_t, int64_t> size,
                             double spatial_scale = 1, int64_t sampling_ratio = -1, bool aligned = false);

// ---- capsules (capsule.cpp): u (N,I,K), weight (I,J,D,K) -> (N,J,D), by `iterations` rounds of routing by
// agreement
FASTCNN_API Tensor capsule_routing(const Tensor& u, const Tensor& weight, int64_t iterations = 3);

// ---- operators
// ----------------------------------------------------------------------------------------------------
inline Tensor operator+(const Tensor& a, const Tensor& b) { return add(a, b); }
inline Tensor operator-(const Tensor& a, const Tensor& b) { return sub(a, b); }
inline Tensor operator*(const Tensor& a, const Tensor& b) { return mul(a, b); }
inline Tensor operator/(const Tensor& a, const Tensor& b) { return div(a, b); }
// A number beside a tensor decides by its type alone, as in Python: a floating one takes integer tensors to
// float32, an integer leaves them as they are, to its last digit.
namespace detail {
inline Tensor floating(const Tensor& x) { return is_floating(x.dtype()) ? x : cast(x, DType::float32); }
template <std::integral I>
bool fits_double(const Tensor& x, I v) {
  if constexpr (sizeof(I) < sizeof(int64_t)) {
    return true;
  } else {
    constexpr I most = static_cast<I>(int64_t(1) << 53);
    return is_floating(x.dtype()) || (v <= most && (std::is_unsigned_v<I> || v >= static_cast<I>(0) - most));
  }
}
template <std::integral I>
Tensor whole(I v, const Tensor& beside) {
  check(std::is_signed_v<I> || static_cast<uint64_t>(v) <= static_cast<uint64_t>(INT64_MAX),
        "number: expected an integer within the range of int64, got ", v);
  Tensor t = empty({}, DType::int64);
  *t.data<int64_t>() = static_cast<int64_t>(v);
  return beside.device() == t.device() ? t : constant(t, beside.device());
}
}  // namespace detail
inline Tensor operator+(const Tensor& a, double b) { return affine(detail::floating(a), 1, b); }
inline Tensor operator-(const Tensor& a, double b) { return affine(detail::floating(a), 1, -b); }
inline Tensor operator*(const Tensor& a, double b) { return affine(detail::floating(a), b, 0); }
inline Tensor operator/(const Tensor& a, double b) { return div_scalar(a, b); }
inline Tensor operator+(double a, const Tensor& b) { return affine(detail::floating(b), 1, a); }
inline Tensor operator-(double a, const Tensor& b) { return affine(detail::floating(b), -1, a); }
inline Tensor operator*(double a, const Tensor& b) { return affine(detail::floating(b), a, 0); }
inline Tensor operator/(double a, const Tensor& b) { return rdiv_scalar(a, b); }
template <std::integral I>
Tensor operator+(const Tensor& a, I b) {
  return detail::fits_double(a, b) ? affine(a, 1, static_cast<double>(b)) : add(a, detail::whole(b, a));
}
template <std::integral I>
Tensor operator-(const Tensor& a, I b) {
  return detail::fits_double(a, b) ? affine(a, 1, -static_cast<double>(b)) : sub(a, detail::whole(b, a));
}
template <std::integral I>
Tensor operator*(const Tensor& a, I b) {
  return detail::fits_double(a, b) ? affine(a, static_cast<double>(b), 0) : mul(a, detail::whole(b, a));
}
template <std::integral I>
Tensor operator+(I a, const Tensor& b) {
  return b + a;
}
template <std::integral I>
Tensor operator-(I a, const Tensor& b) {
  return detail::fits_double(b, a) ? affine(b, -1, static_cast<double>(a)) : sub(detail::whole(a, b), b);
}
template <std::integral I>
Tensor operator*(I a, const Tensor& b) {
  return b * a;
}
inline Tensor operator-(const Tensor& a) { return neg(a); }

}  // namespace fastcnn
