/* Loads a model from C and predicts a picture of a few numbers, or of zeros: predict net.fcnn [input.f32]
   The input file holds the float32 of one batch, row-major, in logical order (N,C,H,W). Prints the first output. */
#include <stdio.h>
#include <stdlib.h>

#include <fastcnn/c_api.h>

static int fail(const char* what) {
  fprintf(stderr, "%s: %s\n", what, fastcnn_last_error());
  return 1;
}

int main(int argc, char** argv) {
  fastcnn_session* session = NULL;
  fastcnn_result* result = NULL;
  fastcnn_info info;
  fastcnn_tensor input = {0}, output;
  size_t count = 1, i;
  int32_t d;
  if (argc < 2) {
    fprintf(stderr, "usage: %s net.fcnn [input.f32]\n", argv[0]);
    return 2;
  }
  fprintf(stderr, "fastcnn %s\n", fastcnn_version());
  if (fastcnn_load(argv[1], 0, &session)) return fail("load");
  if (fastcnn_input(session, FASTCNN_PREDICT, 0, &info)) return fail("input");
  input.dtype = info.dtype;
  input.ndim = info.ndim;
  for (d = 0; d < info.ndim; ++d) {
    input.shape[d] = info.shape[d] < 0 ? 1 : info.shape[d]; /* a batch of one */
    count *= (size_t)input.shape[d];
  }
  input.data = calloc(count, sizeof(float));
  if (!input.data) return 1;
  if (argc > 2) {
    FILE* file = fopen(argv[2], "rb");
    if (!file || fread(input.data, sizeof(float), count, file) != count) {
      fprintf(stderr, "%s: expected %zu float32\n", argv[2], count);
      return 1;
    }
    fclose(file);
  }
  if (fastcnn_predict(session, &input, 1, &result)) return fail("predict");
  if (fastcnn_result_tensor(result, 0, &output)) return fail("result");
  count = 1;
  for (d = 0; d < output.ndim; ++d) count *= (size_t)output.shape[d];
  for (i = 0; i < count; ++i) printf("%a\n", ((const float*)output.data)[i]); /* exact, to compare */
  fastcnn_result_free(result);
  fastcnn_free(session);
  free(input.data);
  return 0;
}
