// What it is: a fuzzer of .fcnn files: whatever the bytes are, loading throws or gives a session that runs. With
// clang it is a libFuzzer target (-fsanitize=fuzzer -DFASTCNN_LIBFUZZER); else a program that changes the bytes of
// a seed: fuzz_session SEED SECONDS. Half of its files get right checksums, so that what lies behind them is
// reached.
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <vector>

#include "fastcnn/session.h"
#include "session/crc32.h"
#include "session/json.h"

using namespace fastcnn;

namespace {

int64_t loaded = 0, ran = 0;

void run(const uint8_t* data, size_t size) {
  try {
    SessionOptions options;
    options.threads = 1;
    Session session = Session::load_memory(data, size, options);
    ++loaded;
    for (const bool step : {false, true}) {
      if (!(step ? session.can_step() : session.can_predict())) continue;
      std::vector<Tensor> inputs;
      int64_t elements = 0;
      for (const TensorInfo& i : session.inputs(step)) {
        Dims shape = i.shape;
        for (int64_t& d : shape) d = d < 0 ? 2 : d;
        elements += checked_numel("fuzz", shape, i.dtype);
        if (elements > 100'000) return;  // a large input is no mistake of the file
        inputs.push_back(empty(shape, i.dtype));
        std::memset(inputs.back().data(), 0, static_cast<size_t>(inputs.back().numel()) * dtype_size(i.dtype));
      }
      step ? session.step(inputs) : session.predict(inputs);
      ++ran;
    }
  } catch (const std::exception&) {  // the answer to most files
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  run(data, size);
  return 0;
}

#if !defined(FASTCNN_LIBFUZZER)
namespace {

using Generator = std::mt19937_64;

// One number, word or piece of text of the JSON is another.
std::string changed(std::string text, Generator& random) {
  static const char* const words[] = {
      "0",   "1",      "2",  "-1", "7",    "\"N\"", "\"2*N\"", "2147483648",  "9007199254740992",
      "0.5", "\"%1\"", "[]", "{}", "null", "true",  "\"x\"",   "\"float64\"", "\"int64\""};
  for (int i = static_cast<int>(random() % 3); i >= 0; --i) {
    std::vector<std::pair<size_t, size_t>> spans;  // of values: numbers and strings after ':' ',' '['
    for (size_t at = 0; at + 1 < text.size(); ++at) {
      if (text[at] != ':' && text[at] != ',' && text[at] != '[') continue;
      size_t end = at + 1;
      if (text[end] == '"') {
        end = text.find('"', end + 1);
        if (end == std::string::npos) break;
        ++end;
      } else {
        while (end < text.size() && std::strchr("-+.0123456789eE", text[end])) ++end;
      }
      if (end > at + 1) spans.emplace_back(at + 1, end);
    }
    if (spans.empty()) return text;
    const auto [b, e] = spans[random() % spans.size()];
    const auto [b2, e2] = spans[random() % spans.size()];
    const std::string other =
        random() % 2 ? std::string(words[random() % std::size(words)]) : text.substr(b2, e2 - b2);
    text.replace(b, e - b, other);
  }
  return text;
}

std::string with_graph(const Json& header, const std::string& body, const std::string& graph) {
  char sum[9];
  std::snprintf(sum, sizeof sum, "%08x", crc32(graph.data(), graph.size()));
  Json h = Json::object();
  for (const Json::Member& m : header.members("header")) {
    if (m.first != "__metadata__") h.set(m.first, m.second);
  }
  h.set("__metadata__", Json::object({{"fastcnn", Json::string(graph)}, {"fastcnn_crc32", Json::string(sum)}}));
  const std::string text = h.dump();
  std::string file;
  for (int i = 0; i < 8; ++i) file.push_back(static_cast<char>(text.size() >> (8 * i)));
  return file + text + body;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) {
    std::fprintf(stderr, "usage: %s SEED.fcnn SECONDS\n", argv[0]);
    return 2;
  }
  std::ifstream in(argv[1], std::ios::binary);
  const std::string seed{std::istreambuf_iterator<char>(in), {}};
  size_t length = 0;
  for (int i = 7; i >= 0; --i) length = length << 8 | static_cast<uint8_t>(seed.at(static_cast<size_t>(i)));
  const Json header = Json::parse(seed.substr(8, length));
  const std::string body = seed.substr(8 + length);
  const std::string graph = header.at("__metadata__", "seed").at("fastcnn", "seed").as_string("seed");
  Generator random(1);
  int64_t files = 0;
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(std::atoi(argv[2]));
  for (; std::chrono::steady_clock::now() < end; ++files) {
    std::string file;
    if (random() % 4) {
      file = with_graph(header, body, changed(graph, random));
    } else {
      file = seed;
      for (int i = static_cast<int>(random() % 4); i >= 0; --i)
        file[random() % (random() % 2 ? length + 8 : file.size())] = static_cast<char>(random());
      if (random() % 4 == 0) file.resize(random() % file.size());
    }
    run(reinterpret_cast<const uint8_t*>(file.data()), file.size());
  }
  std::printf("%lld files, %lld loaded, %lld graphs ran\n", static_cast<long long>(files),
              static_cast<long long>(loaded), static_cast<long long>(ran));
}
#endif
