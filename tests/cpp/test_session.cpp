// What it proves: the parts of sessions that Python does not reach alone: JSON, CRC-32, numbers of the batch, the
// way from a C++ function to a file and back, threads that predict at once, and the C functions with hostile
// arguments.
#include <doctest/doctest.h>
#include <sys/stat.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <thread>
#include <vector>

#include "fastcnn/autograd.h"
#include "fastcnn/c_api.h"
#include "fastcnn/ops.h"
#include "fastcnn/optim.h"
#include "fastcnn/session.h"
#include "session/batch_form.h"
#include "session/crc32.h"
#include "session/json.h"

using namespace fastcnn;

namespace {

struct File {  // a path that is gone at the end
  std::string path = (std::filesystem::temp_directory_path() /
                      concat("fastcnn_test_", reinterpret_cast<uintptr_t>(this), ".fcnn"))
                         .string();
  ~File() { std::filesystem::remove(path); }
  std::string bytes() const {
    std::ifstream in(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(in), {}};
  }
};

bool equal(const Tensor& a, const Tensor& b) {
  return a.shape() == b.shape() && a.dtype() == b.dtype() &&
         std::memcmp(a.data(), b.data(), static_cast<size_t>(a.numel()) * dtype_size(a.dtype())) == 0;
}

struct Net {
  Tensor w = randn({6, 3, 3, 3}), b = randn({6}), head = randn({6, 4});
  std::vector<Tensor> operator()(const std::vector<Tensor>& in) const {
    Conv2dOptions same;
    same.padding = "same";
    const Tensor y = mean(relu(conv2d(in[0], w, b, same)), {2, 3});
    return {softmax(matmul(y, head), 1)};
  }
  TracedGraph traced() const {
    NoGrad off;
    return trace_graph([this](const std::vector<Tensor>& in) { return (*this)(in); },
                       {{"x", DType::float32, {2, 3, 8, 8}, true}}, {{"w", w}, {"b", b}, {"head", head}});
  }
};

}  // namespace

TEST_CASE("JSON comes back as it was written, and damage is refused") {
  const char* text = R"({"a":[1,-2,0.5,1e+300,true,null],"b":{"ü\n\"\\":"\u001f"},"c":[],"d":{}})";
  const Json j = Json::parse(text);
  CHECK(Json::parse(j.dump()) == j);
  CHECK(j.at("a", "test").items("test")[1].as_int("test") == -2);
  CHECK(Json::parse(R"("\ud83d\ude00")").as_string("test") == "\xf0\x9f\x98\x80");
  for (const double v : {0.1, -0.0, 1.0 / 3, 5e-324, 1.7976931348623157e308})
    CHECK(Json::parse(Json::number(v).dump()).as_double("test") == v);
  for (const char* bad : {"",
                          " ",
                          "{",
                          "[1,]",
                          "{\"a\":1,}",
                          "{\"a\":1,\"a\":2}",
                          "01",
                          "1.",
                          ".5",
                          "+1",
                          "1e",
                          "nan",
                          "tru",
                          "\"\\x\"",
                          "\"\\ud800\"",
                          "\"\\udc00\"",
                          "\"\x01\"",
                          "\"\xff\"",
                          "\"\xed\xa0\x80\"",
                          "\"\xf4\x90\x80\x80\"",
                          "1 2",
                          "'a'",
                          "1e999",
                          "{1:2}",
                          "[1",
                          "\"a"})
    CHECK_THROWS_AS(Json::parse(bad), std::invalid_argument);
  CHECK_THROWS_AS(Json::parse(std::string(100, '[') + std::string(100, ']')), std::invalid_argument);
  CHECK_NOTHROW(Json::parse(std::string(60, '[') + std::string(60, ']')));
}

TEST_CASE("CRC-32 is that of zlib, in one piece or several") {
  const char* text = "123456789";
  CHECK(crc32(text, 9) == 0xcbf43926u);
  CHECK(crc32(text + 4, 5, crc32(text, 4)) == 0xcbf43926u);
  std::vector<uint8_t> many(1000);
  for (size_t i = 0; i < many.size(); ++i) many[i] = static_cast<uint8_t>(i * 7);
  for (const size_t cut : {1, 15, 16, 17, 500})
    CHECK(crc32(many.data() + cut, many.size() - cut, crc32(many.data(), cut)) == crc32(many.data(), many.size()));
}

TEST_CASE("what depends on the batch size becomes a function of it") {
  auto merged = [](auto&& make) {
    return merge_batches({make(int64_t(2)), make(int64_t(3)), make(int64_t(5))}, {2, 3, 5}, "test");
  };
  CHECK(merged([](int64_t n) { return Json::integer(64 * n - 3); }) == Json::string("64*N-3"));
  CHECK(merged([](int64_t n) { return Json::integer(n); }) == Json::string("N"));
  CHECK(merged([](int64_t) { return Json::integer(7); }) == Json::integer(7));
  for (const double k : {1.0, -1.0, 2.0, 0.3}) {
    const Json j = merged([k](int64_t n) { return Json::number(k / static_cast<double>(n)); });
    for (const int64_t n : {1, 2, 9, 1000}) CHECK(double_at(j, n, "test") == k / static_cast<double>(n));
  }
  CHECK_THROWS_AS(merged([](int64_t n) { return Json::integer(n * n); }), std::invalid_argument);
  CHECK_THROWS_AS(merged([](int64_t n) { return Json::string(std::to_string(n)); }), std::invalid_argument);
  CHECK(int_at(Json::string("3*N+1"), 4, "test") == 13);
  for (const char* bad : {"", "M", "N+", "N*3", "3N", "N+-1", "-", "9223372036854775807*N", "1*N+1x", "N N"})
    CHECK_THROWS_AS(int_at(Json::string(bad), 4, "test"), std::invalid_argument);
}

TEST_CASE("a C++ function becomes a file and gives the same bits from it") {
  Net net;
  File file;
  write_session(file.path, {{"predict", net.traced()}});
  Session session = Session::load(file.path);
  Compiled compiled([&](const std::vector<Tensor>& in) { return net(in); });
  NoGrad off;
  for (const int64_t n : {1, 2, 7}) {
    const Tensor x = randn({n, 3, 8, 8});
    CHECK(equal(session.predict(x), compiled({x})[0]));
  }
  const std::string bytes = file.bytes();
  Session again = Session::load_memory(bytes.data(), bytes.size());
  const Tensor x = randn({2, 3, 8, 8});
  CHECK(equal(session.predict(x), again.predict(x)));
  CHECK_THROWS_AS(session.predict(randn({2, 3, 8, 9})), std::invalid_argument);
  CHECK_THROWS_AS(session.step({x}), std::invalid_argument);
  CHECK_THROWS_AS(Session::load(file.path + "x"), std::runtime_error);
}

TEST_CASE("without a function or a graph there is nothing to write") {
  File file;
  CHECK_THROWS_AS(trace_graph({}, {}), std::invalid_argument);
  CHECK_THROWS_AS(on_each_run({}), std::invalid_argument);
  CHECK_THROWS_AS(write_session(file.path, {}), std::invalid_argument);
  CHECK(!std::ifstream(file.path));
}

TEST_CASE("a compiled step that throws does not count for the optimizer") {
  const Tensor x = randn({4, 3}), start = randn({3, 5});
  auto losses = [&](int wrong) {
    Tensor w = clone(start);
    w.set_requires_grad(true);
    optim::AdamW optimizer(std::vector<Tensor>{w});
    optimizer.set_lr(0, 0.1);
    Compiled step([&](const std::vector<Tensor>& in) -> std::vector<Tensor> {
      const Tensor loss = cross_entropy(matmul(in[0], w), in[1]);
      optimizer.zero_grad();
      loss.backward();
      optimizer.step();
      return {loss.detach()};
    });
    auto label = [](int64_t v) {
      const Tensor y = empty({4}, DType::int64);
      std::fill_n(y.data<int64_t>(), 4, v);
      return y;
    };
    std::vector<double> out;
    for (int i = 0; i < 4; ++i) {
      out.push_back(step({x, label(i)})[0].item());
      for (int k = 0; k < wrong; ++k) CHECK_THROWS_AS(step({x, label(9)}), std::out_of_range);
    }
    return out;
  };
  CHECK(losses(0) == losses(2));
}

TEST_CASE("what has been moved from says so instead of reading behind nothing") {
  File file;
  write_session(file.path, {{"predict", Net().traced()}});
  Session session = Session::load(file.path), taken = std::move(session);
  CHECK_THROWS_AS(session.predict(ones({2, 3, 8, 8})), ValueError);
  CHECK_THROWS_AS(session.can_step(), ValueError);
  CHECK(taken.predict(ones({2, 3, 8, 8})).shape() == Dims{2, 4});
  Tensor w = ones({2});
  w.set_requires_grad(true);
  optim::SGD sgd({w}), mine = std::move(sgd);
  CHECK_THROWS_AS(sgd.step(), ValueError);
  CHECK_THROWS_AS(sgd.set_lr(1), ValueError);
  CHECK(mine.groups() == 1);
  Compiled twice([](const std::vector<Tensor>& in) { return std::vector<Tensor>{add(in[0], in[0])}; });
  Compiled kept = std::move(twice);
  CHECK_THROWS_AS(twice({w.detach()}), ValueError);
  CHECK_THROWS_AS(twice.reset(), ValueError);
  CHECK(kept({w.detach()}).size() == 1);
  const TracedGraph traced = Net().traced();
  GraphFunction function(traced.json, traced.tensors), other = std::move(function);
  CHECK_THROWS_AS(function({ones({2, 3, 8, 8})}), ValueError);
  CHECK(other({ones({2, 3, 8, 8})}).size() == 1);
}

TEST_CASE("empty tensors and two graphs of one name are refused before anything is written") {
  File file;
  const Net net;
  const Compiled::Fn fn = [&](const std::vector<Tensor>& in) { return net(in); };
  CHECK_THROWS_AS(trace_graph(fn, {{"x", DType::float32, {2, 3, 8, 8}, true}}, {{"w", Tensor()}}), ValueError);
  TracedGraph graph = net.traced();
  CHECK_THROWS_AS(write_session(file.path, {{"predict", graph}, {"predict", graph}}), ValueError);
  graph.tensors[0].tensor = Tensor();
  CHECK_THROWS_AS(write_session(file.path, {{"predict", graph}}), ValueError);
  CHECK(!std::ifstream(file.path));
}

TEST_CASE("a pipe in the place of a file is refused, not waited for") {
  File file;
  REQUIRE(::mkfifo(file.path.c_str(), 0600) == 0);
  CHECK_THROWS_AS(Session::load(file.path), ValueError);
}

TEST_CASE("a bool of C is true where it is not 0") {
  File file;
  write_session(file.path, {{"predict", trace_graph(
                                            [](const std::vector<Tensor>& in) -> std::vector<Tensor> {
                                              return {sum(cast(in[0], DType::float32), {1})};
                                            },
                                            {{"mask", DType::bool_, {2, 4}, true}})}});
  fastcnn_session* s = nullptr;
  REQUIRE(fastcnn_load(file.path.c_str(), 1, &s) == FASTCNN_OK);
  uint8_t mask[8] = {255, 0, 2, 1, 0, 0, 0, 128};
  const fastcnn_tensor in{mask, FASTCNN_BOOL, 2, {2, 4}};
  fastcnn_result* r = nullptr;
  REQUIRE(fastcnn_predict(s, &in, 1, &r) == FASTCNN_OK);
  fastcnn_tensor out;
  REQUIRE(fastcnn_result_tensor(r, 0, &out) == FASTCNN_OK);
  CHECK(static_cast<float*>(out.data)[0] == 3);
  CHECK(static_cast<float*>(out.data)[1] == 1);
  fastcnn_result_free(r);
  fastcnn_free(s);
}

TEST_CASE("plans that run are not taken away by another thread or by the run itself") {
  const Tensor w = randn({8, 3, 3, 3}), x = randn({4, 3, 32, 32});
  Compiled step([&](const std::vector<Tensor>& in) -> std::vector<Tensor> { return {relu(conv2d(in[0], w))}; });
  const Tensor wanted = step({x})[0];
  std::atomic<bool> done{false};
  std::thread other([&] {
    while (!done) step.reset(), step.describe(), step.steps(), step.info(), step.cache_info();
  });
  int wrong = 0;
  for (int i = 0; i < 200; ++i) wrong += !equal(step({x})[0], wanted);
  done = true;
  other.join();
  CHECK(wrong == 0);

  int runs = 0;
  Compiled own;
  own = Compiled([&](const std::vector<Tensor>& in) -> std::vector<Tensor> {
    on_each_run([&] {
      if (++runs == 2) own.reset();
    });
    return {add(in[0], in[0])};
  });
  CHECK(own({x}).size() == 1);
  CHECK_THROWS_AS(own({x}), ValueError);
  CHECK(own({x}).size() == 1);
}

TEST_CASE("threads that predict at once get their own results") {
  Net net;
  File file;
  write_session(file.path, {{"predict", net.traced()}});
  SessionOptions options;
  options.threads = 2, options.plans = 2;
  Session session = Session::load(file.path, options);
  std::vector<Tensor> inputs, wanted;
  for (int64_t i = 0; i < 4; ++i) {
    inputs.push_back(randn({1 + i % 3, 3, 8, 8}));
    wanted.push_back(session.predict(inputs.back()));
  }
  std::atomic<int> wrong{0};
  std::vector<std::thread> threads;
  for (size_t t = 0; t < inputs.size(); ++t)
    threads.emplace_back([&, t] {
      for (int i = 0; i < 10; ++i) wrong += !equal(session.predict(inputs[t]), wanted[t]);
    });
  for (std::thread& t : threads) t.join();
  CHECK(wrong == 0);
  CHECK(session.cache_info().plans == 2);
}

TEST_CASE("predictions of one session run at once where asked, beside steps") {
  Net net;
  File file;
  write_session(file.path, {{"predict", net.traced()}});
  SessionOptions options;
  options.threads = 1, options.concurrent = 3;
  Session session = Session::load(file.path, options);
  // Large enough for the system to change threads in the middle of one.
  const Tensor x = randn({512, 3, 8, 8}), wanted = session.predict(x);
  std::atomic<int> wrong{0}, left{0};
  const auto predict_often = [&] {
    ++left;
    while (left < 4) std::this_thread::yield();  // all begin together
    for (int i = 0; i < 10; ++i) wrong += !equal(session.predict(x), wanted);
  };
  // Each that predicts has a plan of its own: more than one tells that they met.
  for (int round = 0; round < 50 && session.cache_info().plans < 2; ++round) {
    left = 0;
    std::vector<std::thread> threads;
    for (int t = 0; t < 4; ++t) threads.emplace_back(predict_often);
    for (int i = 0; i < 20; ++i) session.cache_info();  // waits for predictions, and they for it
    for (std::thread& t : threads) t.join();
  }
  CHECK(wrong == 0);
  CHECK(session.cache_info().plans >= 2);
  CHECK(session.cache_info().plans <= 3);
  CHECK(session.cache_info().budget <= options.plan_bytes);
  for (int64_t most : {int64_t{0}, int64_t{-1}, int64_t{1} << 31}) {
    options.concurrent = most;
    CHECK_THROWS_AS(Session::load(file.path, options), std::invalid_argument);
  }
}

TEST_CASE("the C functions answer hostile arguments with a code and a message") {
  Net net;
  File file;
  write_session(file.path, {{"predict", net.traced()}});
  fastcnn_session* s = nullptr;
  CHECK(fastcnn_load("/nonexistent/x.fcnn", 0, &s) == FASTCNN_SYSTEM);
  CHECK(s == nullptr);
  CHECK(std::strstr(fastcnn_last_error(), "/nonexistent/x.fcnn") != nullptr);
  CHECK(fastcnn_load(nullptr, 0, &s) == FASTCNN_INVALID);
  CHECK(fastcnn_load(file.path.c_str(), 0, nullptr) == FASTCNN_INVALID);
  CHECK(fastcnn_load(file.path.c_str(), -1, &s) == FASTCNN_INVALID);
  CHECK(fastcnn_load_memory("0123456789", 10, 0, &s) == FASTCNN_INVALID);
  CHECK(fastcnn_load_memory(nullptr, 10, 0, &s) == FASTCNN_INVALID);
  REQUIRE(fastcnn_load(file.path.c_str(), 1, &s) == FASTCNN_OK);
  CHECK(std::strcmp(fastcnn_last_error(), "") == 0);
  CHECK(fastcnn_input_count(s, FASTCNN_PREDICT) == 1);
  CHECK(fastcnn_input_count(s, FASTCNN_STEP) == 0);
  CHECK(fastcnn_input_count(nullptr, FASTCNN_PREDICT) == 0);
  fastcnn_info info;
  REQUIRE(fastcnn_input(s, FASTCNN_PREDICT, 0, &info) == FASTCNN_OK);
  CHECK(std::strcmp(info.name, "x") == 0);
  CHECK((info.ndim == 4 && info.shape[0] == -1 && info.shape[3] == 8));
  CHECK(fastcnn_input(s, FASTCNN_PREDICT, 1, &info) == FASTCNN_INVALID);
  CHECK(fastcnn_output(s, FASTCNN_STEP, 0, &info) == FASTCNN_INVALID);
  CHECK(fastcnn_input(s, static_cast<fastcnn_graph>(3), 0, &info) == FASTCNN_INVALID);
  CHECK(fastcnn_input_count(s, static_cast<fastcnn_graph>(3)) == 0);

  std::vector<float> pixels(3 * 8 * 8);  // row-major, as C has it
  for (size_t i = 0; i < pixels.size(); ++i) pixels[i] = static_cast<float>(i) / 100;
  fastcnn_tensor in{pixels.data(), FASTCNN_FLOAT32, 4, {1, 3, 8, 8}};
  fastcnn_result* r = nullptr;
  REQUIRE(fastcnn_predict(s, &in, 1, &r) == FASTCNN_OK);
  fastcnn_tensor out;
  REQUIRE(fastcnn_result_tensor(r, 0, &out) == FASTCNN_OK);
  const Tensor x = contiguous(from_blob(pixels.data(), {1, 3, 8, 8}, {192, 64, 8, 1}, DType::float32));
  Session session = Session::load(file.path);
  const Tensor wanted = session.predict(x);
  CHECK((out.ndim == 2 && out.shape[1] == 4));
  CHECK(std::memcmp(out.data, wanted.data(), 16) == 0);
  CHECK(fastcnn_result_tensor(r, 1, &out) == FASTCNN_INVALID);
  fastcnn_result_free(r);
  fastcnn_result_free(nullptr);

  const fastcnn_tensor good = in;
  auto refused = [&](auto&& change) {
    in = good;
    change(in);
    CHECK(fastcnn_predict(s, &in, 1, &r) == FASTCNN_INVALID);
    CHECK(r == nullptr);
    CHECK(std::strlen(fastcnn_last_error()) > 0);
  };
  refused([](fastcnn_tensor& t) { t.data = nullptr; });
  refused([](fastcnn_tensor& t) { t.ndim = -1; });
  refused([](fastcnn_tensor& t) { t.ndim = 9; });
  refused([](fastcnn_tensor& t) { t.dtype = static_cast<fastcnn_dtype>(99); });
  refused([](fastcnn_tensor& t) { t.dtype = FASTCNN_INT64, t.shape[1] = 1; });
  refused([](fastcnn_tensor& t) { t.shape[0] = INT64_MAX; });
  refused([](fastcnn_tensor& t) { t.shape[0] = -1; });
  refused([](fastcnn_tensor& t) { t.shape[2] = 4; });
  CHECK(fastcnn_predict(s, nullptr, 1, &r) == FASTCNN_INVALID);
  CHECK(fastcnn_predict(nullptr, &good, 1, &r) == FASTCNN_INVALID);
  CHECK(fastcnn_predict(s, &good, 1, nullptr) == FASTCNN_INVALID);
  CHECK(fastcnn_step(s, &good, 1, &r) == FASTCNN_INVALID);
  CHECK(fastcnn_set_lr(s, 0.1) == FASTCNN_INVALID);
  double lr = 0;
  CHECK(fastcnn_lr(s, &lr) == FASTCNN_INVALID);
  CHECK(fastcnn_lr(s, nullptr) == FASTCNN_INVALID);
  CHECK(fastcnn_save(s, "/nonexistent/x.fcnn") == FASTCNN_SYSTEM);
  CHECK(fastcnn_predict_image(s, nullptr, 8, 8, 3, &r) == FASTCNN_INVALID);
  CHECK(fastcnn_class_name(s, 0) == nullptr);
  fastcnn_free(s);
  fastcnn_free(nullptr);
  CHECK(fastcnn_load_with(file.path.c_str(), nullptr, &s) == FASTCNN_INVALID);
  for (const fastcnn_options bad : {fastcnn_options{0, -1, 0, 0}, {0, 0, -1, 0}, {-1, 0, 0, 0}, {0, 0, 0, -1}}) {
    CHECK(fastcnn_load_with(file.path.c_str(), &bad, &s) == FASTCNN_INVALID);
    CHECK(s == nullptr);
  }
}

TEST_CASE("two steps of Adam in one compiled function have corrections of their own") {
  auto after = [](bool compiled) {
    Tensor w = full({3}, 1.5);
    w.set_requires_grad(true);
    optim::Adam optimizer(std::vector<Tensor>{w});
    optimizer.set_lr(0, 0.1);
    const auto twice = [&](const std::vector<Tensor>& in) -> std::vector<Tensor> {
      for (int i = 0; i < 2; ++i) {
        optimizer.zero_grad();
        sum(mul(mul(w, w), in[0])).backward();
        optimizer.step();
      }
      return {in[0]};
    };
    Compiled step(twice);
    for (int i = 0; i < 3; ++i) compiled ? step({ones({3})}) : twice({ones({3})});
    return select(w.detach(), 0, 0).item();
  };
  CHECK(after(true) == doctest::Approx(after(false)).epsilon(1e-6));
}

TEST_CASE("arguments that are one memory, of which the function writes one, are not taken for two") {
  Compiled step([](const std::vector<Tensor>& in) -> std::vector<Tensor> {
    const Tensor before = affine(in[0], 3, 0);
    add_(in[1], ones({}));
    return {add(affine(in[0], 3, 0), before)};
  });
  const Tensor a = ones({4}), b = ones({4});
  CHECK(select(step({a, b})[0], 0, 0).item() == 6);
  CHECK(select(step({a, a})[0], 0, 0).item() == 9);
  float memory[5] = {1, 1, 1, 1, 1};
  const Tensor part = from_blob(memory, {4}, {1}, DType::float32, nullptr, Device{}),
               rest = from_blob(memory + 1, {4}, {1}, DType::float32, nullptr, Device{});
  CHECK(select(step({part, rest})[0], 0, 3).item() == 9);
  CHECK(step.cache_info().misses == 1);
}
