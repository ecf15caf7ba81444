// What it is: what travels with a model beside its graph: how an image becomes its input (resize, crop, normalise)
// and the names of classes. JSON: {"preprocess": {"resize": 256 (the shorter side) or [h, w], "interpolation":
// "bilinear" or "bicubic", "crop": 224 or [h, w], "mean": [...], "std": [...]}, "class_names": [...]}; bytes
// become 0 to 1 first.
#pragma once
#include <string>
#include <vector>

#include "fastcnn/tensor.h"
#include "session/json.h"

namespace fastcnn {

struct Preprocess {
  int64_t shorter = 0;            // side after resizing; 0: none
  int64_t height = 0, width = 0;  // resized to exactly this; 0: none
  int64_t crop_height = 0, crop_width = 0;
  std::string interpolation = "bilinear";
  std::vector<double> mean, std;
  std::vector<std::string> class_names;

  static Preprocess read(const Json& extra);  // ValueError for what it does not know
  // ValueError where what it makes of an image cannot be the input, or names are not as many as (N, classes)
  // scores.
  void check_fits(const Dims& input, const Dims& output) const;
  Tensor run(const uint8_t* pixels, int64_t height, int64_t width, int64_t channels) const;  // (1, C, H, W)
};

}  // namespace fastcnn
