// Fine-tunes a model on new data, without Python. Python wrote the model and its training step once:
//   fc.export(step, "train.fcnn", (x, y), predict=net)
//   fine_tune train.fcnn images.ubyte labels.ubyte tuned.fcnn [epochs]
// Data are IDX files (as MNIST's): images (n, h, w) or (n, h, w, c) and labels (n) of bytes. Images are resized
// and normalised as the file says.
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <fstream>
#include <numeric>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include <fastcnn/session.h>

struct Idx {
  std::vector<int64_t> shape;
  std::vector<uint8_t> data;
};

static Idx read_idx(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  uint8_t head[4] = {};
  in.read(reinterpret_cast<char*>(head), 4);
  if (!in || head[0] || head[1] || head[2] != 8)
    throw std::runtime_error(path + ": expected an IDX file of bytes");
  Idx idx;
  size_t n = 1;
  for (int i = 0; i < head[3]; ++i) {
    uint8_t b[4] = {};
    in.read(reinterpret_cast<char*>(b), 4);
    idx.shape.push_back(int64_t(b[0]) << 24 | b[1] << 16 | b[2] << 8 | b[3]);
    n *= static_cast<size_t>(idx.shape.back());
    if (n > size_t(1) << 34) throw std::runtime_error(path + ": too large");
  }
  const auto start = in.tellg();
  in.seekg(0, std::ios::end);
  if (!in || static_cast<size_t>(in.tellg() - start) != n)
    throw std::runtime_error(path + ": its size is not what its header says");
  in.seekg(start);
  idx.data.resize(n);
  in.read(reinterpret_cast<char*>(idx.data.data()), static_cast<std::streamsize>(n));
  return idx;
}

int main(int argc, char** argv) try {
  if (argc < 5) {
    std::fprintf(stderr, "usage: %s train.fcnn images labels tuned.fcnn [epochs]\n", argv[0]);
    return 2;
  }
  const Idx images = read_idx(argv[2]), labels = read_idx(argv[3]);
  const int epochs = argc > 5 ? std::atoi(argv[5]) : 1;
  fastcnn::Session session = fastcnn::Session::load(argv[1]);
  const fastcnn::Dims want = session.inputs(true).at(0).shape;  // (-1, c, h, w)
  const int64_t n = images.shape.at(0), h = images.shape.at(1), w = images.shape.at(2),
                c = images.shape.size() > 3 ? images.shape[3] : 1;
  if (labels.shape.size() != 1 || labels.shape[0] != n || want.size() != 4)
    throw std::runtime_error("the data do not fit the model");
  const int64_t batch = want[0] > 0 ? want[0] : std::min<int64_t>(64, n), size = want[1] * want[2] * want[3];
  if (batch < 1 || n < batch) throw std::runtime_error("there are fewer images than a batch needs");

  std::vector<int64_t> order(static_cast<size_t>(n));
  std::iota(order.begin(), order.end(), 0);
  std::mt19937 random(0);
  for (int epoch = 1; epoch <= epochs; ++epoch) {
    std::shuffle(order.begin(), order.end(), random);
    double loss = 0, right = 0;
    int64_t steps = 0, seen = 0;
    for (int64_t at = 0; at + batch <= n; at += batch, ++steps) {
      fastcnn::Tensor x = fastcnn::empty({batch, want[1], want[2], want[3]});
      fastcnn::Tensor y = fastcnn::empty({batch}, fastcnn::DType::int64);
      for (int64_t i = 0; i < batch; ++i) {
        const int64_t k = order[static_cast<size_t>(at + i)];
        const fastcnn::Tensor one = session.preprocess(&images.data[static_cast<size_t>(k * h * w * c)], h, w, c);
        if (one.shape() != fastcnn::Dims{1, want[1], want[2], want[3]})
          throw std::runtime_error("the images do not fit the model");
        std::copy_n(one.data<float>(), size, x.data<float>() + i * size);  // both channels-last
        y.data<int64_t>()[i] = labels.data[static_cast<size_t>(k)];
      }
      if (session.can_predict() && steps % 8 == 0) {  // how good it is on images that it has not yet learned
        const fastcnn::Tensor scores = session.predict(x);
        const int64_t classes = scores.shape()[1];
        for (int64_t i = 0; i < batch; ++i, ++seen) {
          const float* row = scores.data<float>() + i * classes;
          right += std::max_element(row, row + classes) - row == y.data<int64_t>()[i];
        }
      }
      loss += session.step({x, y}).at(0).item();
    }
    std::printf("epoch %d loss %.4f accuracy %.2f%%\n", epoch, loss / static_cast<double>(steps),
                100 * right / static_cast<double>(std::max<int64_t>(seen, 1)));
  }
  session.save(argv[4]);
} catch (const std::exception& e) {
  std::fprintf(stderr, "%s\n", e.what());
  return 1;
}
