/* What ONNX Runtime's CUDA provider calls while a session is opened, on a machine without a GPU.
   "Device" memory is the host's; nothing is ever computed. Every other function that the provider
   needs is made by `no_gpu.py`, and only returns 0, which means success. */
typedef unsigned long size_t; /* no header: a compiler is all that the test needs */
void *memcpy(void *, const void *, size_t);
void *memset(void *, int, size_t);
int posix_memalign(void **, size_t, size_t);
void free(void *);

static char handle[256]; /* of every stream, event and library */

int cuInit(unsigned flags) { return 0; } /* these two: serving/hardware.py */
int cuDeviceGetCount(int *count) { *count = 1; return 0; }

int cudaGetDeviceCount(int *count) { *count = 1; return 0; }
int cudaGetDevice(int *device) { *device = 0; return 0; }
int cudaRuntimeGetVersion(int *version) { *version = 13000; return 0; }
int cudaDriverGetVersion(int *version) { *version = 13000; return 0; }
int cudaDeviceGetAttribute(int *value, int attribute, int device) { *value = 8; return 0; }

/* Offsets in cudaDeviceProp of CUDA 13, 1008 bytes: driver_types.h */
int cudaGetDeviceProperties(char *properties, int device) {
    memset(properties, 0, 1008);
    *(size_t *)(properties + 288) = 1ul << 32; /* totalGlobalMem */
    *(int *)(properties + 308) = 32;           /* warpSize */
    *(int *)(properties + 320) = 1024;         /* maxThreadsPerBlock */
    *(int *)(properties + 360) = 8;            /* major */
    *(int *)(properties + 384) = 1;            /* multiProcessorCount */
    *(int *)(properties + 604) = 2048;         /* maxThreadsPerMultiProcessor */
    return 0;
}

int cudaMemGetInfo(size_t *free, size_t *total) { *free = *total = 1ul << 32; return 0; }
int cudaMalloc(void **memory, size_t bytes) { return posix_memalign(memory, 256, bytes); }
int cudaMallocHost(void **memory, size_t bytes) { return cudaMalloc(memory, bytes); }
int cudaHostAlloc(void **memory, size_t bytes, unsigned flags) { return cudaMalloc(memory, bytes); }
int cudaFree(void *memory) { free(memory); return 0; }
int cudaFreeHost(void *memory) { free(memory); return 0; }

int cudaMemcpy(void *to, const void *from, size_t bytes, int kind) {
    memcpy(to, from, bytes);
    return 0;
}
int cudaMemcpyAsync(void *to, const void *from, size_t bytes, int kind, void *stream) {
    memcpy(to, from, bytes);
    return 0;
}

int cudaStreamCreate(void **stream) { *stream = handle; return 0; }
int cudaStreamCreateWithFlags(void **stream, unsigned flags) { *stream = handle; return 0; }
int cudaEventCreate(void **event) { *event = handle; return 0; }
int cudaEventCreateWithFlags(void **event, unsigned flags) { *event = handle; return 0; }
int cublasCreate_v2(void **library) { *library = handle; return 0; }
int cublasLtCreate(void **library) { *library = handle; return 0; }
void **__cudaRegisterFatBinary(void *kernels) { return (void **)handle; }
const char *cudaGetErrorName(int error) { return "an error"; }
const char *cudaGetErrorString(int error) { return "an error"; }
