// Trains LeNet (LeCun et al. 1998) on IDX files (MNIST, Fashion-MNIST) with the C++ API alone: ops, autograd,
// compile and SGD. What it is not: a data pipeline; four uncompressed IDX files are read whole.
//   train_lenet FOLDER [epochs] [batch]
#include <fastcnn/fastcnn.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <numeric>
#include <random>

using fastcnn::Tensor;
namespace fc = fastcnn;

struct Idx {
  std::vector<uint32_t> sizes;
  std::vector<uint8_t> bytes;
  explicit Idx(const std::string& path) {
    std::ifstream f(path, std::ios::binary);
    if (!f) throw std::runtime_error("cannot open " + path);
    auto word = [&] {
      unsigned char b[4] = {};
      f.read(reinterpret_cast<char*>(b), 4);
      return uint32_t(b[0]) << 24 | uint32_t(b[1]) << 16 | uint32_t(b[2]) << 8 | b[3];
    };
    const uint32_t magic = word(), ndim = magic & 255;
    if (magic >> 8 != 8 || ndim < 1 || ndim > 3) throw std::runtime_error(path + ": not an IDX file of bytes");
    size_t n = 1;
    for (uint32_t d = 0; d < ndim; ++d) n *= sizes.emplace_back(word());
    bytes.assign(std::istreambuf_iterator<char>(f), {});  // not by n: a damaged header must not cost memory
    if (bytes.size() != n) throw std::runtime_error(path + ": its size is not what its header says");
  }
};

struct LeNet {
  Tensor w1 = init({6, 1, 5, 5}), b1 = init({6}), w2 = init({16, 6, 5, 5}), b2 = init({16});
  Tensor f1 = init({120, 400}), c1 = init({120}), f2 = init({84, 120}), c2 = init({84});
  Tensor f3 = init({10, 84}), c3 = init({10});

  static Tensor init(const fc::Dims& shape) {  // He et al. 2015; biases start at zero
    double fan_in = shape.size() > 1 ? double(shape.numel() / shape[0]) : 0;
    return (fan_in ? fc::randn(shape) * std::sqrt(2 / fan_in) : fc::zeros(shape)).detach().set_requires_grad();
  }
  std::vector<Tensor> parameters() const { return {w1, b1, w2, b2, f1, c1, f2, c2, f3, c3}; }
  Tensor operator()(const Tensor& x) const {
    Tensor h = fc::max_pool2d(fc::relu(fc::conv2d(x, w1, b1, {.padding = "same"})), {});
    h = fc::flatten(fc::max_pool2d(fc::relu(fc::conv2d(h, w2, b2)), {}), 1);
    h = fc::relu(fc::linear(h, f1, c1));
    return fc::linear(fc::relu(fc::linear(h, f2, c2)), f3, c3);
  }
};

struct Batches {
  Idx images, labels;
  Batches(const std::string& folder, const std::string& split)
      : images(folder + "/" + split + "-images-idx3-ubyte"), labels(folder + "/" + split + "-labels-idx1-ubyte") {
    if (images.sizes.size() != 3 || images.sizes[0] != labels.bytes.size())
      throw std::runtime_error(folder + ": images and labels differ");
  }
  int64_t size() const { return images.sizes[0]; }
  std::pair<Tensor, Tensor> get(const std::vector<int64_t>& order, int64_t begin, int64_t end) const {
    const int64_t h = images.sizes[1], w = images.sizes[2];
    Tensor x = fc::empty({end - begin, 1, h, w}), y = fc::empty({end - begin}, fc::DType::int64);
    for (int64_t i = begin; i < end; ++i) {
      const uint8_t* image = images.bytes.data() + order[i] * h * w;
      for (int64_t p = 0; p < h * w; ++p)
        x.data<float>()[(i - begin) * h * w + p] = (image[p] / 255.f - 0.2860f) / 0.3530f;
      y.data<int64_t>()[i - begin] = labels.bytes[order[i]];
    }
    return {x, y};
  }
};

int main(int argc, char** argv) try {
  if (argc < 2) return std::fprintf(stderr, "usage: train_lenet FOLDER [epochs] [batch]\n"), 2;
  const int epochs = argc > 2 ? std::atoi(argv[2]) : 5, batch = argc > 3 ? std::max(1, std::atoi(argv[3])) : 64;
  Batches train(argv[1], "train"), test(argv[1], "t10k");
  fc::manual_seed(0);
  LeNet net;
  fc::optim::SGD sgd(net.parameters(), {.lr = 0.05, .momentum = 0.9, .weight_decay = 5e-4});
  fc::Compiled step([&](const std::vector<Tensor>& in) {
    Tensor loss = fc::cross_entropy(net(in[0]), in[1]);
    loss.backward();
    sgd.step();
    sgd.zero_grad();
    return std::vector<Tensor>{loss.detach()};
  });
  fc::Compiled predict(
      [&](const std::vector<Tensor>& in) { return std::vector<Tensor>{fc::argmax(net(in[0]), 1)}; });
  std::vector<int64_t> order(train.size()), plain(test.size());
  std::iota(order.begin(), order.end(), 0);
  std::iota(plain.begin(), plain.end(), 0);
  for (int epoch = 0; epoch < epochs; ++epoch) {
    auto start = std::chrono::steady_clock::now();
    std::shuffle(order.begin(), order.end(), std::mt19937(epoch));
    sgd.set_lr(0.05 * 0.5 * (1 + std::cos(3.14159265 * epoch / epochs)));
    double loss = 0;
    int64_t steps = 0, right = 0;
    for (int64_t i = 0; i + batch <= train.size(); i += batch, ++steps) {
      auto [x, y] = train.get(order, i, i + batch);
      loss += step({x, y})[0].item();
    }
    fc::NoGrad no_grad;  // predict is another plan
    for (int64_t i = 0; i < test.size(); i += batch) {
      auto [x, y] = test.get(plain, i, std::min<int64_t>(i + batch, test.size()));
      Tensor guess = predict({x})[0];
      for (int64_t k = 0; k < y.numel(); ++k) right += guess.data<int64_t>()[k] == y.data<int64_t>()[k];
    }
    std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
    std::printf("epoch %d  loss %.4f  test accuracy %.2f %%  %.1f s\n", epoch + 1, loss / double(steps),
                100.0 * double(right) / double(test.size()), seconds.count());
  }
} catch (const std::exception& e) {
  return std::fprintf(stderr, "train_lenet: %s\n", e.what()), 1;
}
