// Classifies an image with a model that Python exported:
//   fc.export(net, "net.fcnn", x, preprocess={"resize": 256, "crop": 224, "mean": …, "std": …}, class_names=…)
//   classify net.fcnn picture.ppm
#include <chrono>
#include <cstdio>
#include <exception>

#include <fastcnn/session.h>

#include "image_file.h"

int main(int argc, char** argv) try {
  if (argc != 3) {
    std::fprintf(stderr, "usage: %s net.fcnn picture.ppm\n", argv[0]);
    return 2;
  }
  using Clock = std::chrono::steady_clock;
  const auto ms = [](Clock::time_point since) {
    return std::chrono::duration<double, std::milli>(Clock::now() - since).count();
  };
  auto start = Clock::now();
  fastcnn::Session session = fastcnn::Session::load(argv[1]);
  std::fprintf(stderr, "loaded in %.1f ms\n", ms(start));
  const Image image = read_image(argv[2]);
  for (const char* run : {"first", "second"}) {  // the first one plans
    start = Clock::now();
    const auto guesses = session.classify(image.pixels.data(), image.height, image.width, image.channels, 5);
    std::fprintf(stderr, "%s prediction in %.1f ms\n", run, ms(start));
    if (run[0] != 's') continue;
    for (const fastcnn::Guess& g : guesses)
      std::printf("%6.2f %%  %ld  %s\n", 100.0 * g.probability, static_cast<long>(g.index), g.name.c_str());
  }
} catch (const std::exception& e) {
  std::fprintf(stderr, "%s\n", e.what());
  return 1;
}
