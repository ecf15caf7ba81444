// Images of the examples: binary PPM (P6) and PGM (P5), which `djpeg picture.jpg` or `convert picture.jpg x.ppm`
// write. With -DWITH_LIBJPEG and the system's libjpeg also JPEG itself.
#pragma once
#include <cctype>
#include <cstdint>
#include <cstdio>
#include <fstream>
#include <stdexcept>
#include <string>
#include <vector>
#if defined(WITH_LIBJPEG)
#include <csetjmp>

#include <jpeglib.h>
#endif

struct Image {
  int64_t height = 0, width = 0, channels = 3;
  std::vector<uint8_t> pixels;  // (height, width, channels)
};

inline Image read_pnm(std::istream& in, const std::string& path) {
  auto fail = [&](const char* why) -> std::runtime_error { return std::runtime_error(path + ": " + why); };
  auto number = [&] {
    int c = in.get();
    while (c == '#' || std::isspace(c)) {
      if (c == '#')
        while (c != '\n' && c != EOF) c = in.get();
      c = in.get();
    }
    int64_t v = 0;
    if (!std::isdigit(c)) throw fail("expected a number in the header");
    for (; std::isdigit(c); c = in.get()) {
      v = v * 10 + (c - '0');
      if (v > 65536) throw fail("expected sizes of at most 65536");
    }
    return v;
  };
  char magic[2] = {};
  in.read(magic, 2);
  if (magic[0] != 'P' || (magic[1] != '5' && magic[1] != '6'))
    throw fail("expected a binary PPM, PGM (or JPEG) file");
  Image image;
  image.channels = magic[1] == '6' ? 3 : 1;
  image.width = number(), image.height = number();
  if (image.width < 1 || image.height < 1 || number() != 255) throw fail("expected an image of bytes");
  image.pixels.resize(static_cast<size_t>(image.height * image.width * image.channels));
  in.read(reinterpret_cast<char*>(image.pixels.data()), static_cast<std::streamsize>(image.pixels.size()));
  if (!in) throw fail("the file ends before its last pixel");
  return image;
}

#if defined(WITH_LIBJPEG)
struct JpegError {
  jpeg_error_mgr base;
  std::jmp_buf back;
};

inline Image read_jpeg(const std::string& path) {
  FILE* file = std::fopen(path.c_str(), "rb");
  if (!file) throw std::runtime_error(path + ": cannot open");
  jpeg_decompress_struct info;
  JpegError error;
  info.err = jpeg_std_error(&error.base);
  error.base.error_exit = [](j_common_ptr c) { std::longjmp(reinterpret_cast<JpegError*>(c->err)->back, 1); };
  Image image;
  if (setjmp(error.back)) {
    jpeg_destroy_decompress(&info);
    std::fclose(file);
    throw std::runtime_error(path + ": not a whole JPEG file");
  }
  jpeg_create_decompress(&info);
  jpeg_stdio_src(&info, file);
  jpeg_read_header(&info, TRUE);
  info.out_color_space = JCS_RGB;
  jpeg_start_decompress(&info);
  image.height = info.output_height, image.width = info.output_width;
  image.pixels.resize(static_cast<size_t>(image.height * image.width * 3));
  while (info.output_scanline < info.output_height) {
    JSAMPROW row = image.pixels.data() + static_cast<size_t>(info.output_scanline) * info.output_width * 3;
    jpeg_read_scanlines(&info, &row, 1);
  }
  jpeg_finish_decompress(&info);
  jpeg_destroy_decompress(&info);
  std::fclose(file);
  return image;
}
#endif

inline Image read_image(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  if (!in) throw std::runtime_error(path + ": cannot open");
#if defined(WITH_LIBJPEG)
  if (in.peek() == 0xff) return read_jpeg(path);
#endif
  return read_pnm(in, path);
}
