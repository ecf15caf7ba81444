// See preprocess.h.
#include "session/preprocess.h"

#include <algorithm>
#include <cmath>

#include "fastcnn/ops.h"

namespace fastcnn {
namespace {

constexpr int64_t kMostSide = 1 << 16;

int64_t side(const Json& j, const char* what) {
  const int64_t v = j.as_int(what);
  check(v >= 1 && v <= kMostSide, what, ": expected a size in [1, ", kMostSide, "], got ", v);
  return v;
}

std::vector<double> numbers(const Json& j, const char* what) {
  std::vector<double> v;
  for (const Json& x : j.items(what)) v.push_back(x.as_double(what));
  return v;
}

Tensor per_channel(const std::vector<double>& v) {
  Tensor t = empty({static_cast<int64_t>(v.size())});
  for (size_t i = 0; i < v.size(); ++i) t.data<float>()[i] = static_cast<float>(v[i]);
  return reshape(t, {1, static_cast<int64_t>(v.size()), 1, 1});
}

}  // namespace

Preprocess Preprocess::read(const Json& extra) {
  Preprocess p;
  for (const auto& [name, value] : extra.members("extra")) {
    check(name == "preprocess" || name == "class_names", "expected preprocess or class_names, got '", name, "'");
    if (name == "class_names") {
      for (const Json& s : value.items("class_names")) p.class_names.push_back(s.as_string("class_names"));
      continue;
    }
    for (const auto& [key, v] : value.members("preprocess")) {
      if (key == "resize" || key == "crop") {
        const bool pair = v.is(Json::Kind::array);
        check(!pair || v.items("size").size() == 2, key, ": expected one size or [height, width]");
        const int64_t h = side(pair ? v.items("size")[0] : v, key.c_str());
        const int64_t w = side(pair ? v.items("size")[1] : v, key.c_str());
        if (key == "crop")
          p.crop_height = h, p.crop_width = w;
        else if (pair)
          p.height = h, p.width = w;
        else
          p.shorter = h;
      } else if (key == "interpolation") {
        p.interpolation = v.as_string("interpolation");
        check(p.interpolation == "bilinear" || p.interpolation == "bicubic",
              "interpolation: expected bilinear or bicubic, got '", p.interpolation, "'");
      } else if (key == "mean") {
        p.mean = numbers(v, "mean");
      } else if (key == "std") {
        p.std = numbers(v, "std");
        for (const double s : p.std)
          check(s != 0 && std::isfinite(s), "std: expected numbers other than 0, got ", s);
      } else {
        check(false, "preprocess: expected resize, interpolation, crop, mean or std, got '", key, "'");
      }
    }
  }
  return p;
}

void Preprocess::check_fits(const Dims& input, const Dims& output) const {
  const bool any = shorter || height || crop_height || !mean.empty() || !std.empty();
  check(!any || input.size() == 4, "preprocess: expected a first input of images (N, C, H, W), got ", input);
  for (const auto& [name, v] : {std::pair<const char*, const std::vector<double>&>{"mean", mean}, {"std", std}})
    check(v.empty() || static_cast<int64_t>(v.size()) == input[1], "preprocess: expected ", input[1],
          " numbers in ", name, ", one for each channel of the input, got ", v.size());
  const int64_t h = crop_height ? crop_height : height, w = crop_height ? crop_width : width;
  if (h)
    check(h == input[2] && w == input[3], "preprocess: expected images of the input's size, ", input[2], " x ",
          input[3], ", got ", h, " x ", w);
  else if (shorter)
    check(shorter == std::min(input[2], input[3]), "preprocess: expected a shorter side of ",
          std::min(input[2], input[3]), ", that of the input, got ", shorter, " and no crop");
  check(class_names.empty() || output.size() != 2 || output[1] == static_cast<int64_t>(class_names.size()),
        "class_names: expected ", output.size() == 2 ? output[1] : 0, " names, one for each score, got ",
        class_names.size());
}

Tensor Preprocess::run(const uint8_t* pixels, int64_t h, int64_t w, int64_t channels) const {
  check(pixels != nullptr, "preprocess: expected pixels, got a null pointer");
  check(h >= 1 && w >= 1 && channels >= 1 && h <= kMostSide && w <= kMostSide && channels <= kMostSide,
        "preprocess: expected an image of (height, width, channels) with sizes in [1, ", kMostSide, "], got ",
        Dims{h, w, channels});
  for (const auto& [name, v] : {std::pair<const char*, const std::vector<double>&>{"mean", mean}, {"std", std}})
    check(v.empty() || static_cast<int64_t>(v.size()) == channels, "preprocess: expected an image of ", v.size(),
          " channels (", name, "), got ", channels);
  const Tensor bytes = from_blob(const_cast<uint8_t*>(pixels), {1, channels, h, w},
                                 canonical_strides({1, channels, h, w}), DType::uint8);
  Tensor x = affine(cast(bytes, DType::float32), 1.0 / 255, 0);
  if (shorter || height) {
    int64_t to_h = height, to_w = width;
    if (shorter) {  // as torchvision's Resize: the longer side is cut to a whole number
      const auto scaled = [&](int64_t longer, int64_t other) {
        return static_cast<int64_t>(static_cast<double>(shorter) * static_cast<double>(longer) /
                                    static_cast<double>(other));
      };
      to_h = h <= w ? shorter : scaled(h, w), to_w = w <= h ? shorter : scaled(w, h);
    }
    if (to_h != h || to_w != w)
      x = interpolate(x, std::pair{to_h, to_w}, std::nullopt, interpolation, false, true);
    if (interpolation == "bicubic") x = clamp(x, 0, 1);  // it overshoots at edges, which bytes cannot
  }
  if (crop_height) {  // the middle; what an image lacks is black
    const int64_t more_h = std::max<int64_t>(0, crop_height - x.shape()[2]);
    const int64_t more_w = std::max<int64_t>(0, crop_width - x.shape()[3]);
    x = pad(x, {more_w / 2, more_w - more_w / 2, more_h / 2, more_h - more_h / 2});
    const auto start = [](int64_t all, int64_t part) {
      return static_cast<int64_t>(std::nearbyint(static_cast<double>(all - part) / 2));
    };
    x = narrow(x, 2, start(x.shape()[2], crop_height), crop_height);
    x = narrow(x, 3, start(x.shape()[3], crop_width), crop_width);
  }
  if (!mean.empty()) x = sub(x, per_channel(mean));
  if (!std.empty()) x = div(x, per_channel(std));
  return contiguous(x);
}

}  // namespace fastcnn
