/* What it is: sessions for C and every language that calls C: load a .fcnn file, predict, train, save. Tensors
   cross as dense row-major memory in logical order (images N,C,H,W). What it is not: ops, autograd, compile; those
   are C++. Functions that can fail return FASTCNN_OK or a code, and fastcnn_last_error() says why; no exception
   leaves. Handles are opaque; each has one function that frees it. A session may be used from several threads at
   once. */
#ifndef FASTCNN_C_API_H
#define FASTCNN_C_API_H
#include <stddef.h>
#include <stdint.h>

#if defined(_WIN32)
#define FASTCNN_C_API
#else
#define FASTCNN_C_API __attribute__((visibility("default")))
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* Enumerations have room for every int, since that is what callers in other languages can pass. */
#ifdef __cplusplus
#define FASTCNN_INT : int
#else
#define FASTCNN_INT
#endif

typedef enum fastcnn_status FASTCNN_INT {
  FASTCNN_OK = 0,
  FASTCNN_INVALID = 1, /* bad arguments or a damaged file */
  FASTCNN_MEMORY = 2,  /* out of memory */
  FASTCNN_SYSTEM = 3,  /* the system refused: no such file, disk full */
  FASTCNN_INTERNAL = 4 /* a bug */
} fastcnn_status;

typedef enum fastcnn_dtype FASTCNN_INT {
  FASTCNN_FLOAT32 = 0,
  FASTCNN_BFLOAT16 = 1,
  FASTCNN_FLOAT16 = 2,
  FASTCNN_FLOAT64 = 3,
  FASTCNN_INT64 = 4,
  FASTCNN_INT32 = 5,
  FASTCNN_UINT8 = 6,
  FASTCNN_INT8 = 7,
  FASTCNN_BOOL = 8
} fastcnn_dtype;

enum { FASTCNN_MAX_DIMS = 8 };

typedef struct fastcnn_tensor {
  void* data; /* row-major; of inputs it is only read */
  fastcnn_dtype dtype;
  int32_t ndim;
  int64_t shape[FASTCNN_MAX_DIMS];
} fastcnn_tensor;

typedef struct fastcnn_info { /* of an input or output; name lives as long as the session */
  const char* name;
  fastcnn_dtype dtype;
  int32_t ndim;
  int64_t shape[FASTCNN_MAX_DIMS]; /* -1: the batch size, free */
} fastcnn_info;

typedef enum fastcnn_graph FASTCNN_INT { FASTCNN_PREDICT = 0, FASTCNN_STEP = 1 } fastcnn_graph;
#undef FASTCNN_INT

typedef struct fastcnn_session fastcnn_session;
typedef struct fastcnn_result fastcnn_result; /* tensors that a run gave */

FASTCNN_C_API const char* fastcnn_version(void);
FASTCNN_C_API const char* fastcnn_last_error(void); /* of the calling thread; "" after none */

/* threads: of this session's runs; 0: as many as the process may use. *session is NULL after a failure. */
FASTCNN_C_API fastcnn_status fastcnn_load(const char* path, int32_t threads, fastcnn_session** session);
FASTCNN_C_API fastcnn_status fastcnn_load_memory(const void* data, size_t bytes, int32_t threads,
                                                 fastcnn_session** session);

/* The same with bounds on the plans that a session keeps, one for each batch size, least recently used out first.
   Set what is not named to 0: fastcnn_options o = {0}. */
typedef struct fastcnn_options {
  int32_t threads;    /* 0: as many as the process may use */
  int32_t plans;      /* most plans of a graph; 0: 16 */
  int64_t plan_bytes; /* most memory that they hold apart from the one in use; 0: 2 GiB */
  int32_t concurrent; /* most predictions that run at once, up to 65535, each with its plans; 0: 1 */
} fastcnn_options;
FASTCNN_C_API fastcnn_status fastcnn_load_with(const char* path, const fastcnn_options* options,
                                               fastcnn_session** session);
FASTCNN_C_API fastcnn_status fastcnn_load_memory_with(const void* data, size_t bytes,
                                                      const fastcnn_options* options, fastcnn_session** session);
FASTCNN_C_API void fastcnn_free(fastcnn_session* session); /* NULL is fine; no other thread may use it still */
FASTCNN_C_API fastcnn_status fastcnn_save(const fastcnn_session* session, const char* path);

/* The number of inputs or outputs; 0 where the file has no such graph. */
FASTCNN_C_API size_t fastcnn_input_count(const fastcnn_session* session, fastcnn_graph graph);
FASTCNN_C_API size_t fastcnn_output_count(const fastcnn_session* session, fastcnn_graph graph);
FASTCNN_C_API fastcnn_status fastcnn_input(const fastcnn_session* session, fastcnn_graph graph, size_t index,
                                           fastcnn_info* info);
FASTCNN_C_API fastcnn_status fastcnn_output(const fastcnn_session* session, fastcnn_graph graph, size_t index,
                                            fastcnn_info* info);
FASTCNN_C_API size_t fastcnn_class_count(const fastcnn_session* session);
FASTCNN_C_API const char* fastcnn_class_name(const fastcnn_session* session, size_t index); /* NULL: none */

/* Inputs are read during the call only. *result is the caller's, to be freed; NULL after a failure. */
FASTCNN_C_API fastcnn_status fastcnn_predict(fastcnn_session* session, const fastcnn_tensor* inputs, size_t count,
                                             fastcnn_result** result);
FASTCNN_C_API fastcnn_status fastcnn_step(fastcnn_session* session, const fastcnn_tensor* inputs, size_t count,
                                          fastcnn_result** result);
/* An image of height * width * channels bytes, channels innermost, resized and normalised as the file says. */
FASTCNN_C_API fastcnn_status fastcnn_predict_image(fastcnn_session* session, const uint8_t* pixels, int64_t height,
                                                   int64_t width, int64_t channels, fastcnn_result** result);
/* The learning rate of a training step, in the first group of its optimizer; setting it sets that of all groups.
 */
FASTCNN_C_API fastcnn_status fastcnn_lr(const fastcnn_session* session, double* lr);
FASTCNN_C_API fastcnn_status fastcnn_set_lr(fastcnn_session* session, double lr);

FASTCNN_C_API size_t fastcnn_result_count(const fastcnn_result* result);
/* The memory is the result's and lives as long as it. */
FASTCNN_C_API fastcnn_status fastcnn_result_tensor(const fastcnn_result* result, size_t index,
                                                   fastcnn_tensor* tensor);
FASTCNN_C_API void fastcnn_result_free(fastcnn_result* result); /* NULL is fine */

#ifdef __cplusplus
}
#endif
#endif
